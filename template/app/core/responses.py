"""Responses that are sent more than once, and the `send` through which requests are answered."""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.types import Message, Send

Headers = list[tuple[bytes, bytes]]

REQUEST_ID_HEADER = b"x-request-id"


OVERRIDABLE = frozenset(
    {
        b"access-control-allow-credentials",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"content-security-policy",
        b"referrer-policy",
        b"strict-transport-security",
        b"x-content-type-options",
        b"x-frame-options",
    }
)
"""What every response may get, unless it has its own."""


class AddedHeaders:
    """Headers that every response gets, but for those of which it has its own.

    They are made once, and are bytes that are sent as they are.
    """

    __slots__ = ("_fewer", "headers", "raw")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Take headers of OVERRIDABLE; Vary, which is a list, is added to what there is.

        Raises:
            ValueError: it is another one.
        """
        self.headers = list(headers)
        if others := {name for name, _ in self.headers} - OVERRIDABLE - {b"vary"}:
            raise ValueError(f"only {sorted(OVERRIDABLE)} can be added, not {sorted(others)}")
        self.raw = b"".join(b"%s: %s\r\n" % header for header in self.headers)
        self._fewer: dict[frozenset[bytes], AddedHeaders] = {}

    def beside(self, names: Iterable[bytes]) -> "AddedHeaders":
        """Return those that go with a response that has headers of these names."""
        own = OVERRIDABLE.intersection(names)
        if not own:
            return self
        fewer = self._fewer.get(own)
        if fewer is None:
            kept = [header for header in self.headers if header[0] not in own]
            fewer = self._fewer[own] = AddedHeaders(kept)
        return fewer


NO_HEADERS = AddedHeaders([])


def with_headers(send: Send, added: AddedHeaders) -> Send:
    """Return a `send` that adds headers."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            message = {**message, "headers": _all(headers, added)}
        await send(message)

    return send_more


def _all(headers: Sequence[tuple[bytes, bytes]], added: AddedHeaders) -> Headers:
    return [*headers, *added.beside([name for name, _ in headers]).headers]


class PreparedResponse:
    """A response that is sent more than once."""

    __slots__ = ("body", "headers", "raw", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.raw: Any = None
        """What a sender keeps here, so that it need not make it again."""


class ResponseSender:
    """The `send` of one request. It adds the request's id and headers, and notes the status."""

    __slots__ = ("_id", "_send", "added", "status")

    def __init__(
        self, send: Send, identity: bytes, status: int, added: AddedHeaders = NO_HEADERS
    ) -> None:
        """Answer through `send`; `status` is that of a request that is never answered."""
        self._send = send
        self._id = identity
        self.status = status
        self.added = added
        """A middleware inside may have others added."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            if self.status == 500:  # `internal_error` has it already
                headers = [pair for pair in headers if pair[0] != REQUEST_ID_HEADER]
            # A copy: the message may belong to a cache that sends it again.
            headers = [*_all(headers, self.added), (REQUEST_ID_HEADER, self._id)]
            message = {**message, "headers": headers}
        await self._send(message)

    def send_raw(self, response: PreparedResponse) -> bool:
        """Answer past ASGI, in one piece. False: nothing is sent, it has to go through ASGI."""
        return False
