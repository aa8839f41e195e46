"""`python -m app.commands`, as a crontab calls it."""

import os
import subprocess
import sys
from pathlib import Path

from app.settings import Settings

ROOT = Path(__file__).parents[1]


def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.commands", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_there_is_is_listed_whatever_the_settings() -> None:
    done = command(REDIS_URL="nonsense")
    assert done.returncode == 0, done.stderr
    assert "refresh" in done.stdout


def test_a_command_has_the_settings_and_the_parts_of_the_service(
    servers: dict[str, str], settings: Settings
) -> None:
    """Twice: what was done is not done again."""
    variables = {**servers, "SERVICE_NAME": settings.service_name, "REDIS_TIMEOUT": "10"}
    for end in ("failed=0\n", "failed=0 (by another process)\n"):
        done = command("refresh", **variables)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(end)
        assert "redis.ready" in done.stderr


def test_wrong_settings_are_told() -> None:
    done = command("refresh", REDIS_URL="nonsense")
    assert done.returncode == 1
    assert "REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr
