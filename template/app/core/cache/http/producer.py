"""Running a route's function, and deciding whether its answer is one to keep."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import ResponseValidationError
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException

from app.core.cache.http.headers import HOP_BY_HOP, find
from app.core.cache.http.response import (
    STORABLE_STATUSES,
    ResponseCodec,
    StoredResponse,
    stored_error,
    stored_response,
)
from app.core.reply import Headers
from app.core.serializers.described import fingerprint

_OURS = frozenset({b"age", b"cache-status"})
_PERSONAL_HEADERS = frozenset({b"set-cookie", b"vary"})
_PERSONAL_DIRECTIVES = (b"no-store", b"no-cache", b"private")


class Failed(Exception):
    """The function answered with a server error; an old entry may stand in for it."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class Producer:
    """Calls one function and turns what it returns or raises into a stored response."""

    def __init__(self, function: Callable[..., Any], returns: Any) -> None:
        """Raises TypeError if values of `returns` cannot become a response body."""
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

    async def produce(self, arguments: dict[str, Any]) -> StoredResponse:
        """The function's answer, to be kept or, with `unstorable`, for one request only.

        Raises:
            Failed: a server error, for one request only.
            Exception: what the function raised, HTTPException with a server error included.
        """
        try:
            result = await self._call(arguments)
        except AnyHTTPException as error:
            return _from_error(error)
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
        raise Failed(response)
    return response
