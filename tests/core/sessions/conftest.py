"""One server for the tests that leave it in peace, and a table of every attack that was tried."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from app.core.redis import ClientOptions
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE
from tests.core.sessions.harness import Browser, application, make_sessions
from tests.support.clients import standalone_client

_ROW = "session attack"

RecordAttack = Callable[..., None]
MakeApp = Callable[..., FastAPI]
MakeBrowser = Callable[..., Browser]


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def redis(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client of the empty server: the attacker's, and the service's."""
    client = standalone_client(
        server.url, ClientOptions(name="test", timeout=PATIENCE, connect_timeout=PATIENCE)
    )
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def make_app(redis: Redis) -> MakeApp:
    """Makes applications, each of which stands for a process of the service."""

    def make_app(**options: Any) -> FastAPI:
        return application(make_sessions(redis, **options))

    return make_app


@pytest.fixture
def app(make_app: MakeApp) -> FastAPI:
    return make_app()


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[MakeBrowser]:
    """Makes browsers, of the one application unless told otherwise, and closes them."""
    async with AsyncExitStack() as stack:

        def make_browser(of: FastAPI = app, **options: Any) -> Browser:
            made = Browser(of, **options)
            stack.push_async_callback(made.aclose)
            return made

        yield make_browser


@pytest.fixture
async def alice(browser: MakeBrowser) -> Browser:
    """Logged in."""
    alice = browser()
    await alice.log_in("alice")
    return alice


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Takes a mechanism away, for the control."""
    with monkeypatch.context() as patch:
        yield patch


@pytest.fixture
def record_attack(request: pytest.FixtureRequest) -> RecordAttack:
    """Add a row to the table that is printed after the tests."""

    def record(attack: str, *, outcome: str, control: str) -> None:
        request.node.user_properties.append((_ROW, (attack, outcome, control)))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    header = ("attack", "outcome", "control: without the mechanism")
    # User properties travel with the reports, so the table is whole under pytest-xdist as well.
    rows = [
        tuple(value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", ())
        if name == _ROW and report.when == "call"
    ]
    if not rows:
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    terminalreporter.section("sessions: attacks")
    for row in [header, *sorted(rows)]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
