"""What the image and the containers do with the permissions of files: their own commands, run here.

Without Docker: the lines of the Dockerfile and of compose.yaml are run as they are, on a folder.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.template.conftest import Render

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

SOMEBODY = 1_234_567


def run_lines(dockerfile: str) -> list[str]:
    """The commands of the image that is shipped."""
    last = dockerfile.rpartition("\nFROM ")[2]
    return re.findall(r"^RUN (.+)$", last, re.MULTILINE)


def as_somebody(command: str, cwd: Path, *, group: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command],
        cwd=cwd,
        user=SOMEBODY,
        group=group,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path


def test_any_user_of_group_0_can_write_data(render_wiring: Render, folder: Path) -> None:
    (line,) = [
        line for line in run_lines((render_wiring() / "Dockerfile").read_text()) if "/data" in line
    ]
    data = folder / "data"
    subprocess.run(["sh", "-c", line.replace("/data", str(data))], check=True)
    assert as_somebody(f"touch {data}/x && cat {data}/x", folder, group=0).returncode == 0
    assert as_somebody(f"touch {data}/y", folder, group=SOMEBODY).returncode != 0
    own = subprocess.run(["touch", str(data / "z")], user=10001, group=10001, check=False)
    assert own.returncode == 0


def test_a_checkout_that_only_its_owner_may_read_makes_an_image_that_runs(
    render_wiring: Render, folder: Path
) -> None:
    service = folder / "service"
    (service / "app/core").mkdir(parents=True)
    for name in ("app/main.py", "app/core/part.py", "alembic.ini"):
        (service / name).write_text("answer = 42\n")
    for path in [service, *service.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    program = f"cat {service}/alembic.ini {service}/app/core/part.py"
    assert as_somebody(program, folder, group=0).returncode != 0
    (line,) = [
        line for line in run_lines((render_wiring() / "Dockerfile").read_text()) if "a+rX" in line
    ]
    subprocess.run(["sh", "-c", line.partition(" && ")[0]], cwd=service, check=True)
    done = as_somebody(program, folder, group=SOMEBODY)
    assert (done.returncode, done.stdout.count("42")) == (0, 2)


@pytest.mark.parametrize("lock_strategy", ["lua", "redlock"])
def test_a_redis_that_may_not_read_its_users_says_which_file(
    render_wiring: Render, folder: Path, lock_strategy: str
) -> None:
    rendered = render_wiring(access=True, sessions=True, lock_strategy=lock_strategy)
    compose = yaml.safe_load((rendered / "compose.yaml").read_text("utf-8"))
    servers = [s for s in compose["services"].values() if "/users.acl" in str(s.get("volumes"))]
    assert len(servers) == (2 if lock_strategy == "lua" else 5)
    rules = folder / "users.acl"
    rules.write_text("user default off\n")
    for server in servers:
        shell, flag, script, name = server["entrypoint"]
        script = script.replace("$$", "$").replace("/users.acl >", f"{rules} >")
        for mode, code in ((0o600, 1), (0o644, 0)):
            rules.chmod(mode)
            done = subprocess.run(
                [shell, flag, script, name, "echo", "redis-server", "--aclfile", "/users.acl"],
                user=999,
                group=1000,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == code
            told = "deploy/redis/users.acl: chmod" if code else "redis-server --aclfile /users.acl"
            assert told in (done.stderr if code else done.stdout)
