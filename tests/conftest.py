"""How the tests are shared out among the processes of `-n`, where that is `--dist loadfile`."""

import gc
import json
import os
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from devservers.valkey import EmbeddedValkey

pytest_plugins = ["devservers.evidence"]

# Files whose tests take long, and have little in common that each process would have to make anew.
SHARED_OUT = ("test_profiles.py", "test_update.py", "test_versions.py")
# The tests of all combinations with one database, which are rendered once for them.
ALL_WITH = re.compile(r"all with \w+")
# Seconds that each part takes; what is not in it takes less than one.
DURATIONS = Path(__file__).parent / "durations.json"

# Another Redis or Valkey under all tests of this run, as tests/core/test_versions.py does.
if server := os.environ.get("TEST_REDIS_SERVER"):
    EmbeddedValkey.program = Path(server)

# A background job of a shell ignores Ctrl-C, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def part_of(nodeid: str) -> str:
    """What stays in one process: a file, but for what takes long and shares little."""
    file = nodeid.partition("::")[0]
    if combinations := ALL_WITH.search(nodeid):
        return f"{file} {combinations[0]}"
    return nodeid if file.endswith(SHARED_OUT) else file


class FilesAndLongTests(LoadFileScheduling):  # type: ignore[misc] # xdist is not typed
    """Deals out the parts in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return part_of(nodeid)


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesAndLongTests | None:
    return FilesAndLongTests(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without looking for garbage: the tests stay until the end, in every process of `-n`.

    Nor is it looked for among them later, when a test or a garbage collection asks for all.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`, the longest parts come first: none of them is alone at the end."""
    if hasattr(config, "workerinput"):
        seconds = json.loads(DURATIONS.read_text())
        items.sort(key=lambda item: -seconds.get(part_of(item.nodeid), 0))


class Durations:
    """Adds up how long the parts take, and writes it down at the end."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[part_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        parts = sorted(self.seconds.items(), key=lambda part: -part[1])
        longest = {part: round(seconds, 1) for part, seconds in parts if seconds >= 1}
        DURATIONS.write_text(json.dumps(longest, indent=2) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--measure", action="store_true", help="write how long each part takes (durations.json)"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once what is missing on this machine, and how many tests wait for it."""
    missing = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    for reason, count in missing.items():
        terminalreporter.write_line(f"{count} skipped: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("measure") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations())
