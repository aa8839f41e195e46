"""A response as it is kept: status, headers and body, ready to be sent."""

import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.core.reply import Headers, Ready, Reply
from app.core.serializers import DecodeError, NotStorable

RESPONSE_FORMAT = 0
"""In place of a serializer's format: responses are bytes already."""
STORABLE_STATUSES = frozenset({200, 203, 204, 301, 404, 410})

_HEAD = Struct(">HBI")
_ERROR = 1


@dataclass(slots=True)
class StoredResponse:
    """What a route answered."""

    status: int
    headers: Headers
    """With content-length, without those that depend on when it is sent."""
    body: bytes
    etag: bytes
    is_error: bool = False
    """An HTTPException was raised; `body` is its detail as JSON, for the handler to render."""
    unstorable: Any = None
    """The response itself, where it is not one to keep: a cookie is set, no-store, a stream."""
    sent: "tuple[Hashable, Ready] | None" = field(default=None, compare=False)
    """As it was sent last, and what that depended on."""


class CachedResponse(Response):
    """A stored response on its way through FastAPI."""

    def __init__(self, ready: Ready) -> None:
        # Not by way of Response, which would make headers and a body of what is there already.
        self.status_code = ready.status
        self.body = ready.body
        self.raw_headers = ready.headers.copy()
        self.background = None
        self.reply: Reply | None = None
        """Where it may leave in one piece, if it still is what it was."""
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ready = self._ready
        if (
            self.reply is not None
            and self.background is None
            and self.status_code == ready.status
            and self.body is ready.body
            and self.raw_headers == ready.headers
            and self.reply.whole(ready)
        ):
            return
        await super().__call__(scope, receive, send)


def stored_response(status: int, headers: Headers, body: bytes) -> StoredResponse:
    """A response to keep. Its ETag depends on nothing but its bytes, so all processes agree.

    It is a weak one, because a layer outside, in this process or in front of it, may compress the
    body; one that the route has given stays.
    """
    etag = next((value for name, value in headers if name == b"etag"), b"")
    etag = etag or b'W/"%s"' % blake2b(body, digest_size=12).hexdigest().encode()
    kept = [pair for pair in headers if pair[0] not in (b"content-length", b"etag")]
    if status != 204:
        kept.append((b"content-length", b"%d" % len(body)))
    return StoredResponse(status, kept, body, etag)


def stored_error(status: int, headers: Headers, detail: bytes) -> StoredResponse:
    """An HTTPException to keep and to raise again; `detail` is JSON."""
    return StoredResponse(status, headers, detail, b"", is_error=True)


def is_negative(response: StoredResponse) -> bool:
    return response.status in {404, 410}


@dataclass(frozen=True, slots=True)
class ResponseCodec:
    """Keeps a response as it is. `fingerprint` is that of the response model."""

    fingerprint: bytes = field(default=b"\0" * 8)
    shareable: bool = True

    def dumps(self, value: StoredResponse, *, key: bytes) -> bytes:
        if value.unstorable is not None:
            raise NotStorable
        lines = [value.etag, *(part for pair in value.headers for part in pair)]
        head = b"\n".join(lines)
        if head.count(b"\n") != len(lines) - 1:
            raise NotStorable  # it would come back as other headers than it went
        flags = _ERROR if value.is_error else 0
        return _HEAD.pack(value.status, flags, len(head)) + head + value.body

    def loads(self, payload: bytes, *, key: bytes) -> StoredResponse:
        try:
            status, flags, size = _HEAD.unpack_from(payload)
        except StructError as error:
            raise DecodeError("not a stored response") from error
        end = _HEAD.size + size
        etag, *parts = payload[_HEAD.size : end].split(b"\n")
        if end > len(payload) or len(parts) % 2 or status not in STORABLE_STATUSES:
            raise DecodeError("not a stored response")
        headers, body = list(zip(parts[::2], parts[1::2], strict=True)), payload[end:]
        if flags & _ERROR:
            try:
                json.loads(body)
            except ValueError as error:
                raise DecodeError("the detail of a stored error is not JSON") from error
        return StoredResponse(status, headers, body, etag, bool(flags & _ERROR))
