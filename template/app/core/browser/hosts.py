"""Answers only requests that name a host of this service.

A request may name any: in links that are made from it, and in redirects, a stranger's name would
reach others. A page of the stranger's, whose name leads to this machine, is stopped as well.
"""

from collections.abc import Awaitable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import problems
from app.core.browser.names import check_host

EVERYWHERE = ("/health/live", "/health/ready", "/metrics")
"""Probes and scrapers name whatever address they have, and get nothing that depends on it."""


_REFUSAL = "the Host is not one of TRUSTED_HOSTS"
_MOST_KNOWN = 100


class HostMiddleware:
    """Answers 400 to all others."""

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], everywhere: Collection[str] = EVERYWHERE
    ) -> None:
        """Let requests pass that name one of these hosts, with any port.

        Args:
            app: what is inside.
            hosts: such as "api.example"; "*.example" is all below it, but not itself.
            everywhere: paths that are answered whatever the host.

        Raises:
            ValueError: a host is none.
        """
        for host in hosts:
            check_host(host)
        self._app = app
        self._hosts = frozenset(host.encode() for host in hosts if not host.startswith("*."))
        self._below = tuple(host[1:].encode() for host in hosts if host.startswith("*."))
        self._everywhere = frozenset(everywhere)
        self._known: set[bytes | None] = set()
        """As they were written in requests, with ports."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # What is inside is awaited by whoever awaits this: a layer less for cached responses.
        if scope["type"] == "lifespan" or self._is_trusted(scope):
            return self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return send({"type": "websocket.close", "code": 1008})
        return problems.answer(400, _REFUSAL)(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        given = None
        for name, value in scope["headers"]:
            if name == b"host":
                given = value if given is None else b""  # of two, nobody knows which
        if given in self._known or (given and self._is_ours(given)):
            return True
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in self._everywhere

    def _is_ours(self, given: bytes) -> bool:
        host = given.lower()
        if not host.endswith(b"]"):  # an address of IPv6 has colons, too
            name, colon, port = host.rpartition(b":")
            host = name if colon and port.isdigit() else host
        is_ours = host in self._hosts or host.endswith(self._below)
        if is_ours and len(self._known) < _MOST_KNOWN:
            self._known.add(given)
        return is_ours
