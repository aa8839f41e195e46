"""What fast paths stand in for is, to the letter, what they were written for.

A fast path looks at start whether a library still has the state that it touches. What the library
does with that state only a person can compare: this fails when it has changed. Read the change, do
the same in the fast path or refuse that version there, then write down the new digest.
"""

import hashlib
import inspect
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
from fastapi import routing
from fastapi.dependencies import utils
from fastapi.dependencies.models import Dependant
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

REPLACED: dict[str, tuple[Any, str]] = {
    "uvicorn: what a response does to a cycle": (RequestResponseCycle, "e67d470d435dcc1c"),
    "uvicorn: what its end does": (HttpToolsProtocol.on_response_complete, "64e254f28e389e76"),
    "fastapi: what a function takes": (Dependant, "9f6d0dba138ba058"),
    "fastapi: how that is found": (utils.solve_dependencies, "19825365bd06b12b"),
    "fastapi: how a value is read": (utils.request_params_to_args, "e028df88c5ead125"),
    "fastapi: what serves a route": (routing.get_request_handler, "d959336b716257f3"),
    "fastapi: what is around it": (routing.request_response, "69a7733a62388770"),
    "redis: how a reply is read": (
        AbstractConnection.read_response,
        "c1b374bc1a30d0b4",
    ),
    "redis: how a connection ends": (
        AbstractConnection.disconnect,
        "11194f01c2f6d3c2",
    ),
    "redis: how one is taken": (ConnectionPool.get_connection, "9773fd0f3df00778"),
    "redis: how it is looked at": (ConnectionPool.ensure_connection, "d144a7b72ed399c2"),
    "redis: how it is given back": (ConnectionPool.release, "e7d317be9fa6b3a1"),
}


@pytest.mark.parametrize("what", REPLACED)
def test_what_is_replaced_has_not_changed(what: str) -> None:
    replaced, digest = REPLACED[what]
    source = inspect.getsource(replaced)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("library", ["uvicorn", "fastapi", "redis"])
def test_the_version_that_one_was_written_for_is_the_one_that_is_tested(library: str) -> None:
    known = import_module(f"app.core.fastpath.{library}").KNOWN.split()[0]
    assert f"{version(library)}.".startswith(f"{known}.")
