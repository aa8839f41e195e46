"""What a request is answered through.

By way of ASGI a response is two messages. Each layer may copy its headers, and uvicorn looks at
them one by one, again for each request: a third of the time of a response that comes from memory,
though its bytes have been the same for a second. So where nothing but uvicorn is behind a `Reply`,
it takes a response in one piece.

ASGI has no way to say that. `Reply.whole` does what `RequestResponseCycle.send` would, as it is in
uvicorn 0.54 with httptools, and leaves to it what is not as usual. A uvicorn whose cycles have
other attributes, and any other server, is answered through ASGI.
"""

import re
from typing import Any

from starlette.types import Message, Send

Headers = list[tuple[bytes, bytes]]

_ID = b"x-request-id"
_USED = {
    "access_log", "default_headers", "disconnected", "flow", "keep_alive", "message_event",
    "on_response", "response_complete", "response_started", "transport", "waiting_for_100_continue",
}  # fmt: skip
_cycle: type[Any] | None = None
_status_lines: dict[int, bytes] = {}
try:
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
except ImportError:
    pass
else:
    if _USED.issubset(RequestResponseCycle.__init__.__code__.co_names):
        _cycle, _status_lines = RequestResponseCycle, STATUS_LINE

# RFC 9110, 5.6.2 and 5.5: what neither a name nor a value may hold.
_NOT_IN_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9a-z-]")
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OF_THE_CONNECTION = (b"connection", b"transfer-encoding")
# One piece is a copy of the body, and fills what the system takes without waiting.
_MOST_BYTES = 65_536


class Head:
    """The status and the headers of a response that is sent more than once."""

    __slots__ = ("_before", "_wire", "headers", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self._before: Headers | None = None
        self._wire: bytes | None = None

    def wire(self, before: Headers, size: int) -> bytes | None:
        """The head as it is sent with a body of `size` bytes, the server's headers in front.

        More headers can follow. None if it is one that a server has to look at.
        """
        if self._before is not before:  # the server has a new list every second
            self._before, self._wire = before, self._made(before, size)
        return self._wire

    def _made(self, before: Headers, size: int) -> bytes | None:
        if (b"content-length", b"%d" % size) not in self.headers:
            return None
        for name, value in self.headers:
            if not name or _NOT_IN_NAME.search(name) or _NOT_IN_VALUE.search(value):
                return None
            if name in _OF_THE_CONNECTION:
                return None
        lines = [b"%s: %s\r\n" % header for header in (*before, *self.headers)]
        return b"".join((_status_lines[self.status], *lines))


class Reply:
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

    def whole(self, head: Head, body: bytes) -> bool:
        """Answer a GET in one piece. False if it has to go through ASGI: nothing is sent then."""
        cycle: Any = getattr(self._send, "__self__", None)
        if (
            type(cycle) is not _cycle
            or cycle.response_started
            or cycle.disconnected
            or cycle.access_log
            or not cycle.keep_alive
            or cycle.flow.write_paused
            or len(body) > _MOST_BYTES
            or (wire := head.wire(cycle.default_headers, len(body))) is None
        ):
            return False
        self.status = head.status
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"%s%s: %s\r\n\r\n%s" % (wire, _ID, self._id, body))
        cycle.message_event.set()
        cycle.on_response()
        return True
