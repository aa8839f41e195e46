"""`python -m devservers`: the service, or a command, on servers of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from jinja2 import Environment, StrictUndefined

from devservers.server import free_port
from devservers.waiting import HANG, wait_until
from tests.core.servers.owners import is_alive

pytestmark = pytest.mark.slow

_TEMPLATE = Path(__file__).parents[3] / "template"
# Small, but for real: uvicorn serves it, and its shutdown needs the Redis that was started for it.
_APP = """
import os
from pathlib import Path
from redis.asyncio import Redis

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
            await redis.ping()
        Path("stopped-in-order").touch()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": os.environ["REDIS_URL"].encode()})
"""
_MIGRATIONS = """
import os
from pathlib import Path

Path("migrated").write_text(os.environ["DATABASE_URL"])
"""
_PRINT_VARIABLES = "import os; print(os.environ['REDIS_URL'], os.environ['DATABASE_URL'])"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The folder of a service on SQLite."""
    shutil.copytree(_TEMPLATE / "devservers", tmp_path / "devservers")
    shutil.copy(_TEMPLATE / "alembic.ini", tmp_path)
    render_environment(tmp_path, "sqlite")
    shutil.copytree(_TEMPLATE / "app" / "core", tmp_path / "app" / "core")
    (tmp_path / "app" / "main.py").write_text(_APP)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "env.py").write_text(_MIGRATIONS)
    return tmp_path


def render_environment(service: Path, database: str, lock_strategy: str = "lua") -> None:
    jinja = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    template = (_TEMPLATE / "devservers" / "environment.py.jinja").read_text()
    text = jinja.from_string(template).render(
        database=database, lock_strategy=lock_strategy, access=False, port="8123"
    )
    (service / "devservers" / "environment.py").write_text(text)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "devservers", *arguments]


def variables(**more: str) -> dict[str, str]:
    ours = {"REDIS_URL", "REDLOCK_URLS", "DATABASE_URL", "PORT"}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    return clean | {"DEVSERVERS": "embedded"} | more


def run(service: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=service,
        env=variables(**more),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


@contextmanager
def serving(service: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The service, once it answers, and its port."""
    port = free_port()
    process = subprocess.Popen(
        command("--port", str(port), *arguments),
        cwd=service,
        env=variables(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        get(port, process)
        family = psutil.Process(process.pid).children(recursive=True)
        yield process, port
        wait_until(lambda: not any(map(is_alive, family)), what="the end of its processes")
    finally:
        for member in filter(is_alive, family):
            member.kill()
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def get(port: int, process: subprocess.Popen[str]) -> str:
    answers: list[str] = []

    def answered() -> bool:
        assert process.poll() is None, "the service has ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=HANG) as reply:
                answers.append(reply.read().decode())
        except OSError:
            return False
        return True

    wait_until(answered, what="the service")
    return answers[0]


@pytest.mark.parametrize(
    # Ctrl-C in a terminal is for the whole process group; `kill` is for us alone.
    ("arguments", "send", "number", "code"),
    [
        # uvicorn takes Ctrl-C for a success, and ends by any other signal.
        (("--no-reload",), os.killpg, signal.SIGINT, 0),
        (("--no-reload",), os.kill, signal.SIGTERM, 128 + signal.SIGTERM),
        ((), os.killpg, signal.SIGINT, 0),
        ((), os.kill, signal.SIGHUP, 0),
    ],
    ids=["ctrl-c", "terminated", "reload-ctrl-c", "reload-hangup"],
)
def test_serves_and_stops_in_order(
    service: Path,
    arguments: tuple[str, ...],
    send: Callable[[int, int], None],
    number: int,
    code: int,
) -> None:
    with serving(service, *arguments) as (process, port):
        assert get(port, process).startswith("redis://127.0.0.1:")
        assert (service / "migrated").read_text().startswith("sqlite+aiosqlite:////")
        assert not (service / "stopped-in-order").exists()
        send(process.pid, number)
        _, told = process.communicate(timeout=HANG)
        assert (service / "stopped-in-order").exists()
        assert "redis: embedded Valkey" in told
        assert f"docs: http://127.0.0.1:{port}/docs" in told
        assert process.returncode == code


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("arguments", [("--no-reload",), ()], ids=["plain", "reload"])
def test_killed_it_leaves_no_service_behind(service: Path, arguments: tuple[str, ...]) -> None:
    with serving(service, *arguments) as (process, port):
        process.kill()
        process.communicate(timeout=HANG)
    wait_until(lambda: not listens(port), what="the end of the service")


def test_runs_a_command_with_the_servers_up(service: Path) -> None:
    done = run(service, "--", sys.executable, "-c", _PRINT_VARIABLES)
    redis_url, database_url = done.stdout.split()
    assert done.returncode == 0
    assert redis_url.startswith("redis://127.0.0.1:")
    file = Path(database_url.removeprefix("sqlite+aiosqlite:///"))
    assert file.is_absolute()
    assert not file.parent.exists()
    assert not (service / "migrated").exists()


def test_postgres_service(service: Path) -> None:
    render_environment(service, "postgres")
    done = run(service, "--", sys.executable, "-c", _PRINT_VARIABLES)
    _, database_url = done.stdout.split()
    assert database_url.startswith("postgresql+asyncpg://postgres:")
    assert "database: embedded PostgreSQL 18" in done.stderr


def test_redlock_service(service: Path) -> None:
    render_environment(service, "sqlite", "redlock")
    script = "import os; print(os.environ['REDLOCK_URLS'])"
    urls = run(service, "--", sys.executable, "-c", script).stdout.split(",")
    assert len(set(urls)) == 3
    given = run(service, "--", sys.executable, "-c", script, REDLOCK_URLS="redis://there/0")
    assert given.stdout == "redis://there/0\n"


def test_given_database_is_used(service: Path) -> None:
    url = "sqlite+aiosqlite:///./kept.db"
    done = run(service, "--", sys.executable, "-c", _PRINT_VARIABLES, DATABASE_URL=url)
    assert done.stdout.split()[1] == url


def test_nested_run_uses_the_servers_that_are_up(service: Path) -> None:
    nested = command("--", sys.executable, "-c", _PRINT_VARIABLES)
    done = run(service, "--", *nested)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("embedded Valkey") == 1
    assert f"redis: REDIS_URL is {done.stdout.split()[0]}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("sh", "-c", "exit 7"), 7), (("sh", "-c", "kill -9 $$"), 137), (("no-such-program",), 127)],
)
def test_exit_code_is_that_of_the_command(
    service: Path, arguments: tuple[str, ...], code: int
) -> None:
    assert run(service, "--", *arguments).returncode == code


def test_failed_migration_is_the_end(service: Path) -> None:
    (service / "migrations" / "env.py").write_text("raise SystemExit(5)")
    done = run(service)
    assert done.returncode == 5
    assert "docs:" not in done.stderr


def test_a_port_in_use_is_told_before_anything_is_started(service: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(service, PORT=str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"port {port} of 127.0.0.1 is taken; choose another one: PORT={port + 1} make dev\n"
    )


def test_errors_are_one_message(service: Path) -> None:
    done = run(service, DEVSERVERS="podman")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "DEVSERVERS has to be docker or embedded, not 'podman'\n"


def test_help_warns_that_data_is_thrown_away(service: Path) -> None:
    done = run(service, "--help", PORT="9000")
    assert "THROWN AWAY" in done.stdout
    assert "8123" in done.stdout
