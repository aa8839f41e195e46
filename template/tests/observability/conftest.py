"""What the tests of logs share."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.core.observability.logging import configure_logging

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Turns on logs in JSON; calling it returns the lines that were written since the last call."""
    configure_logging("INFO", "json")

    def lines() -> list[dict[str, Any]]:
        found = map(json.loads, capsys.readouterr().out.splitlines())
        # The client of these tests logs its requests too.
        return [line for line in found if line["logger"] != "httpx2"]

    return lines
