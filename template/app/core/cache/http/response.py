"""A response as it is kept: status, headers and body, ready to be sent."""

import inspect
import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any

from fastapi import HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import ResponseValidationError
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import Receive, Scope, Send

from app.core.cache.kept import Kept
from app.core.responses import Headers, PreparedResponse, ResponseSender
from app.core.serializers import DecodeError, NotStorable
from app.core.serializers.type_info import fingerprint

RESPONSE_FORMAT = 0
"""In place of a serializer's format: responses are bytes already."""
STORABLE_STATUSES = frozenset({200, 203, 204, 301, 404, 410})

# RFC 9110, 7.6.1: for the next hop only, never to be kept.
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"proxy-authenticate", b"proxy-authorization"}
)  # fmt: skip
_OURS = frozenset({b"age", b"cache-status"})
_PERSONAL_HEADERS = frozenset({b"set-cookie", b"vary"})
_PERSONAL_DIRECTIVES = (b"no-store", b"no-cache", b"private")

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
    sent: "tuple[Hashable, PreparedResponse] | None" = field(default=None, compare=False)
    """As it was sent last, and what that depended on."""


class CachedResponse(Response):
    """A stored response on its way through FastAPI."""

    def __init__(self, ready: PreparedResponse) -> None:
        # Not by way of Response, which would make headers and a body of what is there already.
        self.status_code = ready.status
        self.body = ready.body
        self.raw_headers = ready.headers.copy()
        self.background = None
        self.sender: ResponseSender | None = None
        """Where it may leave in one piece, if it still is what it was."""
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ready = self._ready
        if (
            self.sender is not None
            and self.background is None
            and self.status_code == ready.status
            and self.body is ready.body
            and self.raw_headers == ready.headers
            and self.sender.send_raw(ready)
        ):
            return
        await super().__call__(scope, receive, send)


def stored_response(status: int, headers: Headers, body: bytes) -> StoredResponse:
    """Make a response to keep. All processes agree on its ETag, which is made of its bytes only.

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
    """Make a response of an HTTPException, to be raised again; `detail` is JSON."""
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


class ServerErrorResponse(Exception):
    """The function answered with a server error; an old entry may stand in for it."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class ResponseBuilder:
    """Calls one function and turns what it returns or raises into a stored response."""

    def __init__(self, function: Callable[..., Any], returns: Any) -> None:
        """Prepare to serialize values of the type `returns`.

        Raises:
            TypeError: they cannot become a response body.
        """
        self._function = function
        # As FastAPI does: what wraps a coroutine function returns something to be awaited, too.
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self._body: TypeAdapter[Any] | None = None
        self.codec = ResponseCodec()
        if not (isinstance(returns, type) and issubclass(returns, Response)):
            try:
                self._body = TypeAdapter(returns)
                schema = self._body.json_schema(mode="serialization")
                self.codec = ResponseCodec(fingerprint(repr(returns), schema))
            except (PydanticSchemaGenerationError, PydanticUserError) as error:
                raise TypeError(
                    f"{function.__name__} returns {returns!r}, which has no JSON: {error}"
                ) from error

    @property
    def returns_response(self) -> bool:
        return self._body is None

    async def build(self, arguments: dict[str, Any]) -> StoredResponse | Kept[StoredResponse]:
        """Call the function; its answer is to be kept or, if `unstorable`, for one request only.

        What the function does not want kept is for those who wait for it, and they are told not to
        keep it either.

        Raises:
            ServerErrorResponse: a server error, for one request only.
            Exception: what the function raised, HTTPException with a server error included.
        """
        try:
            result = await self._call(arguments)
        except AnyHTTPException as error:
            return _from_error(error)
        if not isinstance(result, Kept):
            return self._stored(result)
        response = self._stored(result.value)
        if result.ttl == 0 and find(response.headers, b"cache-control") is None:
            response.headers.append((b"cache-control", b"no-store"))
        return replace(result, value=response)

    def _stored(self, result: Any) -> StoredResponse:
        if isinstance(result, Response):
            return _from_response(result)
        assert self._body is not None
        try:
            valid = self._body.validate_python(result, from_attributes=True)
        except ValidationError as error:
            details = error.errors(include_url=False)
            located = [{**detail, "loc": ("response", *detail["loc"])} for detail in details]
            raise ResponseValidationError(located, body=result) from error
        body = self._body.dump_json(valid, by_alias=True)
        return stored_response(200, [(b"content-type", b"application/json")], body)

    async def _call(self, arguments: dict[str, Any]) -> Any:
        if self._is_async:
            return await self._function(**arguments)
        return await run_in_threadpool(self._function, **arguments)


def _from_response(response: Response) -> StoredResponse:
    headers = [(name.lower(), value) for name, value in response.raw_headers]
    if (
        response.status_code not in STORABLE_STATUSES
        or not hasattr(response, "body")
        or response.background is not None
        or _is_personal(headers)
    ):
        return _unstorable(response)
    kept = [(name, value) for name, value in headers if name not in HOP_BY_HOP | _OURS]
    return stored_response(response.status_code, kept, bytes(response.body))


def _from_error(error: AnyHTTPException) -> StoredResponse:
    pairs = dict(error.headers or {}).items()
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    if error.status_code >= 500 and not _is_personal(headers):
        raise error
    # A subclass may have a handler of its own, which would not get it from the cache.
    if (
        type(error) is not HTTPException
        or error.status_code not in STORABLE_STATUSES
        or _is_personal(headers)
    ):
        return _unstorable(error)
    try:
        body = json.dumps(error.detail, allow_nan=False).encode()
    except (TypeError, ValueError):  # for a handler that knows what to do with it
        return _unstorable(error)
    kept = [(name, value) for name, value in headers if name not in HOP_BY_HOP | _OURS]
    return stored_error(error.status_code, kept, body)


def _is_personal(headers: Headers) -> bool:
    control = (find(headers, b"cache-control") or b"").lower()
    return any(name in _PERSONAL_HEADERS for name, _ in headers) or any(
        directive in control for directive in _PERSONAL_DIRECTIVES
    )


def _unstorable(result: Response | AnyHTTPException) -> StoredResponse:
    response = StoredResponse(result.status_code, [], b"", b"", unstorable=result)
    if response.status >= 500:
        raise ServerErrorResponse(response)
    return response


def find(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return all values of a header, joined as a list (RFC 9110, 5.3), or None."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None
