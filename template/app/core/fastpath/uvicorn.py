"""Sends a response to uvicorn in one piece, instead of as two messages of ASGI.

By way of ASGI each layer may copy the headers, and uvicorn looks at them one by one, again for each
request: a third of the time of a response that comes from memory, though its bytes have been the
same for a second.

`RawResponseSender.send_raw` does what `RequestResponseCycle.send` would, where nothing but uvicorn
is behind a sender. It leaves to ASGI whatever is not as usual, and any other server.
"""

import re
from types import CodeType
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.core.responses import (
    OVERRIDABLE,
    REQUEST_ID_HEADER,
    Headers,
    PreparedResponse,
    ResponseSender,
)

KNOWN = "0.54 with httptools"
WITHOUT = "cache hits take a third longer"

_STATE = {
    "access_log", "access_logger", "body", "bytearray", "chunked_encoding", "default_headers",
    "disconnected", "expected_content_length", "flow", "keep_alive", "logger", "message_event",
    "more_body", "on_response", "response_complete", "response_started", "scope", "transport",
    "waiting_for_100_continue",
}  # fmt: skip
_USED_BY_SEND = {
    "HEADER_RE", "HEADER_VALUE_RE", "RuntimeError", "STATUS_LINE", "access_log", "access_logger",
    "append", "chunked_encoding", "close", "decode", "default_headers", "disconnected", "drain",
    "expected_content_length", "extend", "flow", "get", "get_client_addr",
    "get_path_with_query_string", "info", "int", "join", "keep_alive", "len", "list", "lower",
    "message_event", "on_response", "response_complete", "response_started", "scope", "search",
    "set", "split", "strip", "transport", "waiting_for_100_continue", "write", "write_paused",
}  # fmt: skip
# RFC 9110, 5.6.2 and 5.5: what neither a name nor a value may hold.
_NOT_IN_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9a-z-]")
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OF_THE_CONNECTION = (b"connection", b"transfer-encoding")
_MAX_BYTES = 65_536
"""Of a body. One piece is a copy of it, and fills what the system takes without waiting."""

Head = tuple[bytes, tuple[bytes, ...]]
"""Status and headers, and the names of those that would be added if they were not there."""

_cycle_send = RequestResponseCycle.send  # another one may be put in its place


def is_known(cycle: type[Any] = RequestResponseCycle) -> bool:
    """Whether uvicorn's cycles have, and send with, what is known here, no less and no more."""
    return (
        _names(cycle.__init__) == _STATE
        and _names(cycle.send) == _USED_BY_SEND
        and "write_paused" in _names(FlowControl.__init__)
    )


def _names(function: Any) -> set[str]:
    """Return the names of all that a function uses; none if it is not Python."""
    names: set[str] = set()
    codes = [getattr(function, "__code__", None)]
    while codes:
        if isinstance(code := codes.pop(), CodeType):
            names.update(code.co_names)
            codes += code.co_consts  # up to Python 3.11 a comprehension is a function of its own
    return names


class RawResponseSender(ResponseSender):
    """Writes prepared responses to uvicorn's transport."""

    __slots__ = ()

    def send_raw(self, response: PreparedResponse) -> bool:
        cycle: Any = getattr(self._send, "__self__", None)
        if (
            type(cycle) is not RequestResponseCycle
            or self._send.__func__ is not _cycle_send  # type: ignore[attr-defined]  # a method
            or cycle.scope["method"] != "GET"
            or cycle.response_started
            or cycle.disconnected
            or cycle.access_log
            or not cycle.keep_alive
            or cycle.flow.write_paused
            or (head := head_of(response, cycle.default_headers)) is None
        ):
            return False
        begin, own = head
        added = self.added.beside(own) if own else self.added
        self.status = response.status
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(
            b"%s%s%s: %s\r\n\r\n%s" % (begin, added.raw, REQUEST_ID_HEADER, self._id, response.body)
        )
        cycle.message_event.set()
        cycle.on_response()
        return True


def head_of(response: PreparedResponse, of_server: Headers) -> Head | None:
    """Return status and headers as they are sent, those `of_server` first; more can follow.

    None: the server has to look at them.
    """
    kept: tuple[Headers, Head | None] | None = response.raw
    if kept is None or kept[0] is not of_server:  # the server has a new list every second
        kept = response.raw = of_server, _make_head(response, of_server)
    return kept[1]


def _make_head(response: PreparedResponse, of_server: Headers) -> Head | None:
    headers = [*of_server, *response.headers]
    lengths = [value for name, value in headers if name == b"content-length"]
    if lengths != [b"%d" % len(response.body)] or len(response.body) > _MAX_BYTES:
        return None
    own: tuple[bytes, ...] = ()
    for name, value in headers:
        if name in OVERRIDABLE:
            own += (name,)
        if not name or _NOT_IN_NAME.search(name) or _NOT_IN_VALUE.search(value):
            return None
        if name in _OF_THE_CONNECTION:
            return None
    head = (STATUS_LINE[response.status], *(b"%s: %s\r\n" % header for header in headers))
    return b"".join(head), own


IMPLEMENTATION = {"response_sender": RawResponseSender}
