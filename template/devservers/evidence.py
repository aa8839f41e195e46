"""A plugin for pytest: limits that know the machine, and failures that show what it was doing."""

import os
import shutil
import tempfile
from collections.abc import Generator

import pytest

from devservers.server import running_servers
from devservers.waiting import slowness

_ROOM = 200 << 20  # bytes


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout looks at its limit
def pytest_configure(config: pytest.Config) -> None:
    """Give the tests of a slow machine more time before they count as hanging.

    Raises:
        UsageError: there is no room for what tests and servers write.
    """
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < _ROOM:
        raise pytest.UsageError(
            f"{folder} has only {free >> 20} MB left: set TMPDIR to a folder with more room"
        )
    # The processes of pytest-xdist are given the options of the one that starts them.
    if config.getoption("timeout", None) is None and (limit := config.getini("timeout")):
        config.option.timeout = float(str(limit)) * slowness()


def pytest_report_header() -> str:
    return f"machine: {machine()}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with what failed, how busy the machine was and what the servers told last."""
    report = yield
    if report.failed:
        report.sections.append(("The machine", machine()))
        for server in running_servers():
            report.sections.append((f"The end of the log of {server}", server.end_of_log()))
    return report


def machine() -> str:
    """The machine, in a line: its cores, its load of the last minute, and its slowness."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load {load:.1f}, slowness {slowness():g}"
