"""Workers that are forked from a process which has made the application already."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from devservers.valkey import EmbeddedValkey
from devservers.waiting import until

ROOT = Path(__file__).parents[3]
STREAM = "orders:events:{orders}:stream"
WORKERS, SHARE = 2, 30


@contextmanager
def forked(url: str, output: Path, *arguments: str) -> Iterator[None]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "template")])
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.core.events.prefork"),
                *(url, str(WORKERS), str(SHARE), *arguments),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=file,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def handled(output: Path) -> list[int]:
    return sorted(int(line) for line in output.read_text().splitlines() if line.isdecimal())


async def test_each_event_of_forked_workers_is_published_and_handled_once(
    redis: Redis, server: EmbeddedValkey, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with forked(server.url, output):
        await until(lambda: len(handled(output)) >= WORKERS * SHARE)
        published = await redis.xlen(STREAM)
    assert published == WORKERS * SHARE
    assert handled(output) == list(range(WORKERS * SHARE))


@pytest.mark.slow
async def test_control_workers_that_are_one_to_redis_lose_events(
    redis: Redis, server: EmbeddedValkey, tmp_path: Path
) -> None:
    output = tmp_path / "output"

    async def last_ones() -> bool:
        return {SHARE - 1, WORKERS * SHARE - 1} & set(handled(output)) != set()

    with forked(server.url, output, "same"):
        await until(last_ones)
        assert await redis.xlen(STREAM) < WORKERS * SHARE


MAKES_IDENTITY = {
    *("token_hex", "token_bytes", "token_urlsafe", "randbits", "randbelow", "getrandbits"),
    *("uuid1", "uuid4", "uuid7", "getpid", "gettid", "urandom", "SystemRandom", "Random"),
}


def made_before_the_fork(source: str) -> list[str]:
    """What is made when a module is imported, or an object of the application."""
    found = []

    def look_at(node: ast.AST, *, runs: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call) and runs:
                function = child.func
                name = function.attr if isinstance(function, ast.Attribute) else ""
                name = function.id if isinstance(function, ast.Name) else name
                if name in MAKES_IDENTITY:
                    found.append(f"line {child.lineno}: {name}")
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                is_making = isinstance(child, ast.FunctionDef) and (
                    child.name in {"__init__", "__post_init__"} or child.name.startswith("create_")
                )
                look_at(child, runs=is_making)
            else:
                look_at(child, runs=runs)

    look_at(ast.parse(source), runs=True)
    return found


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("ID = token_hex(8)", True),
        ("class A:\n def __init__(self):\n  self.id = uuid.uuid4().hex", True),
        ("class A:\n id = os.getpid()", True),
        ("def create_app():\n  boot = secrets.token_hex(8)", True),
        ("class A:\n def begin(self):\n  self.id = token_hex(8)", False),
        ("claim = field(default_factory=lambda: token_hex(8))", False),
    ],
)
def test_control_what_would_be_the_same_in_all_workers_is_found(
    source: str, is_found: bool
) -> None:
    assert bool(made_before_the_fork(source)) is is_found


def test_nothing_that_identifies_a_process_is_made_before_it_starts() -> None:
    files = [*ROOT.glob("template/app/**/*.py")]
    found = {str(file): made_before_the_fork(file.read_text()) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}
    wiring = "".join(path.read_text() for path in ROOT.glob("template/app/**/*.py.jinja"))
    assert "create_service" in wiring
    assert [name for name in MAKES_IDENTITY if f"{name}(" in wiring] == []
