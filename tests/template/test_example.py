"""The example can be deleted: the service is whole without it."""

import subprocess

import pytest

from scripts.running import service_environment
from tests.template.conftest import Render
from tests.template.edits import delete_the_example
from tests.template.test_profiles import CHECKS, run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_service_passes_its_checks_without_the_example(service: Render) -> None:
    """With events: a service that has none is less of the same."""
    folder = service(database="sqlite", events=True)
    delete_the_example(folder)
    # Of a folder that is empty, Git keeps nothing.
    versions = folder / "migrations/versions"
    versions.rmdir()
    assert run(folder, "sync --quiet") == ""
    tests = "pytest -q --ignore tests/observability --ignore tests/test_shutdown.py"
    failures = [text for check in (*CHECKS, tests) if (text := run(folder, f"run {check}"))]
    assert not failures, "\n".join(failures)
    named = subprocess.run(
        ["grep", "-rliE", r"\bapp[./]items\b", "app", "tests", "devservers", "migrations"],
        cwd=folder,
        env=service_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert named.stdout == "", "these speak of what is gone"
