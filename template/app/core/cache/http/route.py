"""Caching a route: `@policy.http(...)` under `@router.get(...)`.

The wrapper runs where the route's function would: after its dependencies, so authentication always
runs. Public hits are usually answered before that, by the edge.
"""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from time import time
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from app.core.cache.decorator import Arguments, Tags
from app.core.cache.http.headers import HOP_BY_HOP, Freshness, Sender, find
from app.core.cache.http.response import (
    RESPONSE_FORMAT,
    STORABLE_STATUSES,
    ResponseCodec,
    StoredResponse,
    is_negative,
    stored_error,
    stored_response,
)
from app.core.cache.keys import Address, canonical
from app.core.cache.outliving import check_outlives
from app.core.cache.recipe import Kind, Recipe

if TYPE_CHECKING:
    from app.core.cache.policy import CachePolicy

SEEN = "app.cache.seen"
"""In the scope: the address that the edge has read for this request, and what it found."""

_REQUEST = "cache_request"
_PRINCIPAL = "cache_principal"
_OURS = frozenset({b"age", b"cache-control", b"cache-status", b"etag"})


class CachedRoute:
    """A route's function whose responses are cached. FastAPI calls it like the function itself."""

    def __init__(
        self,
        policy: "CachePolicy[Any]",
        function: Callable[..., Any],
        *,
        public: bool,
        vary_by: Callable[..., Any] | None,
        tags: Tags,
        ignore: Sequence[str],
        max_age: float,
    ) -> None:
        if public == (vary_by is not None):
            raise TypeError(
                f"{function.__name__}: say either public=True, if everybody gets the same answer, "
                "or vary_by=<dependency>, the one that returns who is asking"
            )
        hints = get_type_hints(function, include_extras=True)
        if "return" not in hints:
            raise TypeError(f"{function.__name__} needs a return annotation to be cached")
        check_outlives(function.__name__, hints)
        self.policy = policy
        self.public = public
        self.arguments = Arguments(function, tags, ignore, hints)
        self.ignored = frozenset(ignore)
        self._function = function
        self._returns = hints["return"]
        self._body = None if _is_response(self._returns) else TypeAdapter(self._returns)
        self.kind = _kind(policy, self._returns, is_body=self._body is not None)
        options = policy.options
        self.sender = Sender(
            Freshness(
                service=policy.cache.service,
                public=public,
                max_age=max_age,
                stale_while_revalidate=options.stale_while_revalidate,
                stale_if_error=options.stale_if_error,
            )
        )
        functools.update_wrapper(self, function)
        self.__signature__ = _signature(function, hints, vary_by)

    async def __call__(self, **kwargs: Any) -> Response:
        request: Request = kwargs.pop(_REQUEST)
        principal = kwargs.pop(_PRINCIPAL, None)
        address = self.address(kwargs, None if self.public else principal)
        made: list[StoredResponse] = []

        async def produce() -> StoredResponse:
            response = await self._produce(kwargs)
            made.append(response)
            return response

        at, seen = request.scope.get(SEEN, (None, None))
        loaded = await self.policy.cache.engine.get(
            Recipe(self.kind, address, produce), seen if at == address.value else None
        )
        stored: StoredResponse = loaded.value
        if stored.unstorable is not None:
            # It was meant for the request that made it, and for nobody who waited with it.
            own = stored if stored in made else await self._produce(kwargs)
            if own.unstorable is not None:
                return _returned(own.unstorable)
            stored = own
        if stored.is_error:
            raise HTTPException(
                stored.status,
                detail=_detail(stored),
                headers={k.decode("latin-1"): v.decode("latin-1") for k, v in stored.headers},
            )
        status, headers, body = self.sender.prepare(
            stored, loaded, int(time() * 1000), find(request.scope["headers"], b"if-none-match")
        )
        response = Response(body, status)
        response.raw_headers = headers
        return response

    def address(self, arguments: dict[str, Any], principal: Any) -> Address:
        """Where the response for these arguments is kept."""
        key = self.arguments.key(arguments)
        if not self.public:
            # Hashed: who reads key names in Redis does not read names of people.
            who = blake2b(canonical(principal).encode("utf-8", "surrogatepass"), digest_size=16)
            key += f"@{who.hexdigest()}"
        return self.policy.address(key, self.arguments.tags(arguments))

    async def invalidate(self, **arguments: Any) -> None:
        """Remove the response for these arguments; for a route with `vary_by` use a tag.

        Raises:
            TypeError: the route varies by who asks.
        """
        if not self.public:
            raise TypeError(f"{self.arguments.name} varies by who asks: invalidate a tag of it")
        await self.policy.invalidate_texts([self.arguments.key(self.arguments.bind(**arguments))])

    async def _produce(self, kwargs: dict[str, Any]) -> StoredResponse:
        try:
            if inspect.iscoroutinefunction(self._function):
                result = await self._function(**kwargs)
            else:
                result = await run_in_threadpool(self._function, **kwargs)
        except HTTPException as error:
            if error.status_code in STORABLE_STATUSES:
                return stored_error(error.status_code, error.detail, dict(error.headers or {}))
            return _unstorable(error)
        if isinstance(result, Response):
            return _from_response(result)
        assert self._body is not None
        body = self._body.dump_json(
            self._body.validate_python(result, from_attributes=True), by_alias=True
        )
        return stored_response(200, [(b"content-type", b"application/json")], body)


def _signature(
    function: Callable[..., Any], hints: dict[str, Any], vary_by: Callable[..., Any] | None
) -> inspect.Signature:
    """The function's own, resolved, and what the wrapper needs from FastAPI."""
    signature = inspect.signature(function)
    own = [
        p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [inspect.Parameter(_REQUEST, keyword, annotation=Request)]
    if vary_by is not None:
        extra.append(
            inspect.Parameter(_PRINCIPAL, keyword, annotation=Annotated[Any, Depends(vary_by)])
        )
    return inspect.Signature([*own, *extra], return_annotation=hints["return"])


def _is_response(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Response)


def _kind(policy: "CachePolicy[Any]", returns: Any, *, is_body: bool) -> Kind:
    codec = ResponseCodec()
    if is_body:
        schema = TypeAdapter(returns).json_schema(mode="serialization")
        described = json.dumps([repr(returns), schema], sort_keys=True).encode()
        codec = ResponseCodec(blake2b(described, digest_size=8).digest())
    return Kind(policy.name, policy.options, codec, RESPONSE_FORMAT, is_negative=is_negative)


def _from_response(response: Response) -> StoredResponse:
    headers = response.raw_headers
    names = {name for name, _ in headers}
    control = find(headers, b"cache-control") or b""
    if (
        response.status_code not in STORABLE_STATUSES
        or not hasattr(response, "body")
        or response.background is not None
        or names & {b"set-cookie", b"vary"}
        or b"no-store" in control
        or b"private" in control
    ):
        return _unstorable(response)
    kept = [(name, value) for name, value in headers if name not in HOP_BY_HOP | _OURS]
    return stored_response(response.status_code, kept, bytes(response.body))


def _unstorable(result: Response | HTTPException) -> StoredResponse:
    return StoredResponse(result.status_code, [], b"", b"", unstorable=result)


def _returned(result: Any) -> Response:
    if isinstance(result, HTTPException):
        raise result
    response: Response = result
    return response


def _detail(stored: StoredResponse) -> Any:
    return json.loads(stored.body)
