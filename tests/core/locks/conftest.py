"""Servers per strategy, and a table of every fault that was tried."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial

import pytest

from app.core.locks import Locks
from devservers.valkey import EmbeddedValkey
from tests.core.locks.clock import Clock
from tests.core.locks.nodes import SIZES, Nodes, open_locks

_ROW = "lock fault"

RecordFault = Callable[..., None]


@pytest.fixture(scope="session")
def servers() -> Iterator[list[EmbeddedValkey]]:
    with ExitStack() as stack:
        yield [stack.enter_context(EmbeddedValkey()) for _ in range(max(SIZES.values()))]


@pytest.fixture(params=SIZES)
def nodes(request: pytest.FixtureRequest, servers: list[EmbeddedValkey]) -> Iterator[Nodes]:
    """Healthy, empty servers of one strategy; the test may do to them what it likes."""
    strategy = request.param
    nodes = Nodes(strategy, servers[: SIZES[strategy]])
    nodes.heal()
    yield nodes
    nodes.thaw()


@pytest.fixture
def redlock(servers: list[EmbeddedValkey]) -> Iterator[Nodes]:
    """For what only a quorum can show."""
    nodes = Nodes("redlock", servers)
    nodes.heal()
    yield nodes
    nodes.thaw()


@pytest.fixture
def single(servers: list[EmbeddedValkey]) -> Nodes:
    """For what only one server can show."""
    nodes = Nodes("lua", servers[:1])
    nodes.heal()
    return nodes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of this process, in the hands of the test."""
    return Clock(monkeypatch)


@pytest.fixture
async def locks(nodes: Nodes) -> AsyncIterator[Locks]:
    async with open_locks(nodes.strategy, nodes.urls) as locks:
        yield locks


@pytest.fixture
async def others(nodes: Nodes) -> AsyncIterator[Locks]:
    """The locks as another process sees them."""
    async with open_locks(nodes.strategy, nodes.urls) as locks:
        yield locks


@pytest.fixture
async def another(nodes: Nodes) -> AsyncIterator[Callable[..., object]]:
    """Opens locks with other options; they are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def open_another(**options: object) -> Locks:
            opened = partial(open_locks, nodes.strategy, nodes.urls)
            return await stack.enter_async_context(opened(**options))  # type: ignore[arg-type]  # passed through

        yield open_another


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> RecordFault:
    """Add a row to the table that is printed after the tests."""

    def record(fault: str, strategy: str, *, runs: int, violations: int, control: str) -> None:
        row = (fault, strategy, str(runs), str(violations), control)
        request.node.user_properties.append((_ROW, row))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    header = ("fault", "strategy", "runs", "violations", "what the control did")
    # User properties travel with the reports, so the table is whole under pytest-xdist as well.
    rows = [
        tuple(value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", ())
        if name == _ROW and report.when == "call"
    ]
    if not rows:
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    terminalreporter.section("locks: faults")
    for row in [header, *sorted(rows)]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
