"""Which server it is: the one whose URL is given, else one in Docker, else an embedded one."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from devservers.containers import is_docker_there
from devservers.guard import ServerUnavailable

Origin = Literal["given", "docker", "embedded"]
Start = Callable[[], AbstractContextManager[tuple[str, str]]]
"""Starts a server; yields its URL and what it is, such as "Valkey 9.1.2"."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and where it came from."""

    url: str
    origin: Origin


@contextmanager
def choose(
    name: str, variable: str, *, ping: Callable[[str], None], docker: Start, embedded: Start
) -> Iterator[Server]:
    """Start a server if need be, and say on standard error which one was taken.

    `DEVSERVERS=docker` or `DEVSERVERS=embedded` leaves no choice: a URL that is set in this shell
    for good does not count then.

    Args:
        name: what to call the server.
        variable: the environment variable that may have its URL.
        ping: raises an exception unless the server at this URL answers.
        docker: starts it in Docker.
        embedded: starts it without.

    Raises:
        ServerUnavailable: the server that was asked for is not to be had.
    """
    forced = _forced()
    url = os.environ.get(variable)
    if url and not forced:
        _check(variable, url, ping)
        _tell(name, f"{variable} is", _without_login(url))
        yield Server(url, "given")
    elif (forced or _best()) == "docker":
        with docker() as (url, what):
            _tell(name, f"{what} in Docker at", url)
            yield Server(url, "docker")
    else:
        with embedded() as (url, what):
            _tell(name, f"embedded {what} at", url)
            yield Server(url, "embedded")


def _forced() -> str:
    wanted = os.environ.get("DEVSERVERS", "")
    if wanted not in {"", "docker", "embedded"}:
        raise ServerUnavailable(f"DEVSERVERS has to be docker or embedded, not {wanted!r}")
    if wanted == "docker" and not is_docker_there():
        raise ServerUnavailable("DEVSERVERS is docker, but no Docker engine answers")
    return wanted


def _best() -> Origin:
    return "docker" if is_docker_there() else "embedded"


def _check(variable: str, url: str, ping: Callable[[str], None]) -> None:
    try:
        ping(url)
    except ImportError:
        raise
    except Exception as error:  # whatever the driver raises: the URL is of no use
        raise ServerUnavailable(
            f"{variable} names {_without_login(url)}, which does not answer: {error}\n"
            f"Start that server, or unset {variable} to have one started for you."
        ) from error


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _tell(name: str, what: str, url: str) -> None:
    print(f"{name}: {what} {url}", file=sys.stderr, flush=True)
