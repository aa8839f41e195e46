"""Fast paths are on where they know what is installed, off where they do not or were told to be."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import structlog
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from redis.asyncio.connection import AbstractConnection
from structlog.testing import capture_logs
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

import app.core.fastpath
from app.core import implementations
from app.core.implementations import Connections, Prerouter, choose, current
from app.core.responses import ResponseSender
from tests.support.fastpath import chosen

ORDINARY = {"uvicorn": ResponseSender, "fastapi": Prerouter, "redis": Connections}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    choose()


def used() -> dict[str, type]:
    """The implementations that are chosen, by the library that they are for."""
    now = current()
    return {
        "uvicorn": now.response_sender,
        "fastapi": type(now.prerouter),
        "redis": type(now.connections),
    }


def fast() -> set[str]:
    return {name for name, implementation in used().items() if implementation != ORDINARY[name]}


def told(choice: Callable[[], object]) -> structlog.typing.EventDict:
    """The one line that a choice logs."""
    with capture_logs() as lines:
        choice()
    (line,) = lines
    assert line["event"] == "fastpath.chosen"
    return line


def test_all_are_on() -> None:
    assert told(choose) == {
        "event": "fastpath.chosen",
        "on": ["fastapi", "redis", "uvicorn"],
        "off": {},
        "log_level": "info",
    }
    assert fast() == {"uvicorn", "fastapi", "redis"}


def test_all_can_be_switched_off() -> None:
    line = told(lambda: choose(fast=False))
    assert (line["on"], line["off"], line["log_level"]) == ([], {"all": "FASTPATH=off"}, "info")
    assert used() == ORDINARY


@pytest.mark.parametrize("left", ["app.core.deleted", "tests.core.fastpath.left"])
def test_the_folder_may_be_gone_or_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, left: str
) -> None:
    (package, _, name) = left.rpartition(".")
    if name == "left":  # Python takes a folder without modules for a package
        root = tmp_path_factory.mktemp("left")
        (root / name / "__pycache__").mkdir(parents=True)
        monkeypatch.setattr(sys.modules[package], "__path__", [str(root)])
    monkeypatch.setattr(implementations, "_FASTPATH", left)
    line = told(choose)
    assert (line["on"], line["off"]) == ([], {"all": f"{left} is not there"})
    assert used() == ORDINARY


class OtherCycle:
    def __init__(self) -> None:
        self.transport = self.trailers = None

    async def send(self, message: object) -> None:
        self.trailers = None


class OtherRouter(APIRouter):
    def __init__(self) -> None:
        super().__init__()
        del self.middleware_stack


def other_contexts(routes: Any) -> Iterator[object]:
    yield object()


@dataclasses.dataclass
class OtherDependant(Dependant):
    retries: int = 0


def without_writer(self: AbstractConnection) -> None:
    self._stream = None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("library", "place", "name", "value"),
    [
        ("uvicorn", RequestResponseCycle, "__init__", OtherCycle.__init__),
        ("uvicorn", RequestResponseCycle, "send", OtherCycle.send),
        ("uvicorn", FlowControl, "__init__", OtherCycle.__init__),
        ("fastapi", "app.core.fastpath.fastapi", "Dependant", OtherDependant),
        ("fastapi", "app.core.fastpath.fastapi", "APIRouter", OtherRouter),
        ("fastapi", "app.core.fastpath.fastapi", "iter_route_contexts", other_contexts),
        ("redis", AbstractConnection, "__init__", without_writer),
    ],
)
def test_one_that_does_not_know_its_library_is_off_and_says_why(
    monkeypatch: pytest.MonkeyPatch, library: str, place: object, name: str, value: object
) -> None:
    if isinstance(place, str):
        place = import_module(place)
    monkeypatch.setattr(place, name, value)
    line = told(choose)
    assert line["log_level"] == "warning"
    assert line["on"] == sorted({"uvicorn", "fastapi", "redis"} - {library})
    assert fast() == {"uvicorn", "fastapi", "redis"} - {library}
    (reason,) = line["off"].values()
    assert list(line["off"]) == [library]
    assert reason.startswith(f"{library} ")
    assert "is not known" in reason


@pytest.mark.parametrize(
    ("library", "module"),
    [
        ("uvicorn", "uvicorn.protocols.http.httptools_impl"),
        ("fastapi", "fastapi.dependencies.models"),
        ("redis", "hiredis"),
    ],
)
def test_one_whose_library_lacks_what_it_needs_is_off_and_says_why(
    monkeypatch: pytest.MonkeyPatch, library: str, module: str
) -> None:
    import_module(f"app.core.fastpath.{library}")
    monkeypatch.delattr(app.core.fastpath, library)
    monkeypatch.delitem(sys.modules, f"app.core.fastpath.{library}")
    monkeypatch.setitem(sys.modules, module, None)
    line = told(choose)
    assert line["on"] == sorted({"uvicorn", "fastapi", "redis"} - {library})
    assert module in line["off"][library]


def test_what_was_made_before_a_choice_stays_as_it_is() -> None:
    made = current()
    with chosen(fast=False):
        assert current() is not made
    assert made.response_sender is not ResponseSender
