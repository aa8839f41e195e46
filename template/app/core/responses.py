"""What a request is answered through.

By way of ASGI a response is two messages. Each layer may copy its headers, and uvicorn looks at
them one by one, again for each request: a third of the time of a response that comes from memory,
though its bytes have been the same for a second. So where nothing but uvicorn is behind a
`ResponseSender`, it takes a response in one piece.

ASGI has no way to say that. `ResponseSender.send_raw` does what `RequestResponseCycle.send` would,
as it is in uvicorn 0.54 with httptools, and leaves to it what is not as usual. A uvicorn whose
cycles have other attributes, and any other server, is answered through ASGI.
"""

import re
from typing import Any

from starlette.types import Message, Send

Headers = list[tuple[bytes, bytes]]

_ID = b"x-request-id"
_STATE = {
    "access_log", "access_logger", "body", "bytearray", "chunked_encoding", "default_headers",
    "disconnected", "expected_content_length", "flow", "keep_alive", "logger", "message_event",
    "more_body", "on_response", "response_complete", "response_started", "scope", "transport",
    "waiting_for_100_continue",
}  # fmt: skip


def is_known(cycle: type[Any]) -> bool:
    """Whether a uvicorn's cycles have the state that is known here, no less and no more."""
    code = getattr(cycle.__init__, "__code__", None)
    return code is not None and set(code.co_names) == _STATE


_cycle: type[Any] | None = None
_cycle_send: Any = None
_status_lines: dict[int, bytes] = {}
try:
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
except ImportError:
    pass
else:
    if is_known(RequestResponseCycle):
        _cycle, _status_lines = RequestResponseCycle, STATUS_LINE
        _cycle_send = RequestResponseCycle.send  # another one may be put in its place


def is_on() -> bool:
    """Whether this uvicorn takes responses in one piece."""
    return _cycle is not None


# RFC 9110, 5.6.2 and 5.5: what neither a name nor a value may hold.
_NOT_IN_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9a-z-]")
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OF_THE_CONNECTION = (b"connection", b"transfer-encoding")
# One piece is a copy of the body, and fills what the system takes without waiting.
_MOST_BYTES = 65_536


class PreparedResponse:
    """A response that is sent more than once."""

    __slots__ = ("_before", "_head", "body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._before: Headers | None = None
        self._head: bytes | None = None

    def head(self, before: Headers) -> bytes | None:
        """Status and headers as they are sent, the server's own `before` them; more can follow.

        None if it is one that a server has to look at.
        """
        if self._before is not before:  # the server has a new list every second
            self._before, self._head = before, self._made(before)
        return self._head

    def _made(self, before: Headers) -> bytes | None:
        headers = [*before, *self.headers]
        lengths = [value for name, value in headers if name == b"content-length"]
        if lengths != [b"%d" % len(self.body)] or len(self.body) > _MOST_BYTES:
            return None
        for name, value in headers:
            if not name or _NOT_IN_NAME.search(name) or _NOT_IN_VALUE.search(value):
                return None
            if name in _OF_THE_CONNECTION:
                return None
        return b"".join(
            (_status_lines[self.status], *(b"%s: %s\r\n" % header for header in headers))
        )


class ResponseSender:
    """The `send` of one request. It adds the request's id, and notes the status."""

    __slots__ = ("_id", "_send", "status")

    def __init__(self, send: Send, identity: bytes, status: int) -> None:
        """`status` is that of a request that is never answered."""
        self._send = send
        self._id = identity
        self.status = status

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            if self.status == 500:  # `internal_error` has it already
                headers = [pair for pair in headers if pair[0] != _ID]
            # A copy: the message may belong to a cache that sends it again.
            message = {**message, "headers": [*headers, (_ID, self._id)]}
        await self._send(message)

    def send_raw(self, ready: PreparedResponse) -> bool:
        """Answer in one piece. False if it has to go through ASGI: nothing is sent then."""
        cycle: Any = getattr(self._send, "__self__", None)
        if (
            type(cycle) is not _cycle
            or self._send.__func__ is not _cycle_send  # type: ignore[attr-defined]
            or cycle.scope["method"] != "GET"
            or cycle.response_started
            or cycle.disconnected
            or cycle.access_log
            or not cycle.keep_alive
            or cycle.flow.write_paused
            or (head := ready.head(cycle.default_headers)) is None
        ):
            return False
        self.status = ready.status
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"%s%s: %s\r\n\r\n%s" % (head, _ID, self._id, ready.body))
        cycle.message_event.set()
        cycle.on_response()
        return True
