"""Caching a route: `@policy.http(...)` under `@router.get(...)`.

The wrapper runs where the route's function would: after its dependencies, so authentication always
runs. Public hits are usually answered before that, by the middleware.
"""

import functools
import inspect
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, get_type_hints

from fastapi import HTTPException, Request, Response
from fastapi.utils import is_body_allowed_for_status_code
from starlette.types import Scope

from app.core.cache.concurrency import adopt
from app.core.cache.engine import Engine
from app.core.cache.entry import Entry
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.function import Arguments, Tags
from app.core.cache.http.headers import Freshness, ResponseRenderer, conditions
from app.core.cache.http.params import PRINCIPAL, REQUEST, RESPONSE, for_callers, for_fastapi
from app.core.cache.http.response import (
    RESPONSE_FORMAT,
    CachedResponse,
    ResponseBuilder,
    ServerErrorResponse,
    StoredResponse,
    is_negative,
)
from app.core.cache.kept import Kept, plain, plain_type
from app.core.cache.keys import EntryKeys, Keyspace, canonical
from app.core.cache.loader_safety import check_captured, check_parameters
from app.core.cache.loading import Lookup
from app.core.cache.options import PolicyOptions, SecondAsk
from app.core.cache.results import CacheResult, Outcome, ReadResult, now_ms
from app.core.responses import Headers, PreparedResponse
from app.core.scope import PERSONALIZED_BY

PEEK = "app.cache.peek"
"""In the scope: what the middleware has read for this request, which was no hit."""

CACHED_AS = "__cached_as__"
"""The attribute of a function that names its route."""

# Of a response from the cache and of a dependency's: the latter knows better.
_SAID_ONCE = frozenset({b"cache-control", b"etag"})
_PERSONAL: Headers = [(b"cache-control", b"private, no-store"), (b"vary", b"Authorization, Cookie")]


@dataclass(frozen=True, slots=True)
class Peek:
    """What the middleware has read for a request, so that its route need not do that again."""

    route: "CachedRoute"
    path: str
    query: bytes
    keys: EntryKeys
    read: ReadResult

    def is_of(self, route: "CachedRoute", scope: Scope) -> bool:
        """Whether no middleware has made it another request since."""
        return (
            self.route is route
            and self.path == scope["path"]
            and self.query == scope["query_string"]
        )


Result = tuple[StoredResponse, Outcome, Entry | CacheResult]
"""A response, how it came about, and its times."""


class CachedRoute:
    """A route's function whose responses are cached. FastAPI calls it like the function itself."""

    def __init__(
        self,
        engine: Engine,
        keyspace: Keyspace,
        policy: str,
        options: PolicyOptions,
        function: Callable[..., Any],
        *,
        declared: "list[CachedRoute]",
        public: bool,
        vary_by: Callable[..., Any] | None,
        tags: Tags,
        ignore: Sequence[str],
        max_age: float,
        second_ask: SecondAsk = False,
    ) -> None:
        """Cache a function under the policy of that name; see `CachePolicy.http`.

        `declared` are all cached routes of the service, whether or not an application serves them.
        """
        name = function.__name__
        if public == (vary_by is not None):
            raise TypeError(
                f"{name}: say either public=True, if everybody gets the same answer, "
                "or vary_by=<dependency>, the one that returns who is asking"
            )
        if not (max_age >= 0 and math.isfinite(max_age)):
            raise ValueError(f"{name}: max_age must be 0 seconds or more, not {max_age!r}")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"{name} yields a stream, which cannot be cached")
        hints = get_type_hints(function, include_extras=True)
        if "return" not in hints:
            raise TypeError(f"{name} needs a return annotation to be cached")
        check_parameters(name, hints)
        check_captured(policy, function)
        hints["return"] = plain_type(hints["return"])
        self.engine = engine
        self._keyspace = keyspace
        self._policy = policy
        self._options = options
        self.public = public
        self.vary_by = vary_by
        self.arguments = Arguments(function, tags, ignore, hints, second_ask)
        self.arguments.signature = for_callers(function)
        self.ignored = frozenset(ignore)
        self.returns = hints["return"]
        self.builder = ResponseBuilder(function, self.returns)
        self.checked = False
        """Set at start-up, by the middleware."""
        self.declared = declared
        declared.append(self)
        self.varies_by: frozenset[Any] = frozenset()
        """`vary_by` and all that it depends on; set at start-up."""
        self.codec = self._make_codec(second_ask=False)
        self._made_up_codec = self.codec
        if self.arguments.has_second_ask:
            self._made_up_codec = self._make_codec(second_ask=True)
        self.renderer = ResponseRenderer(
            Freshness(
                service=keyspace.service,
                public=public,
                max_age=max_age,
                stale_while_revalidate=options.stale_while_revalidate,
                stale_if_error=options.stale_if_error,
            )
        )
        functools.update_wrapper(self, function)
        with suppress(AttributeError):  # a method
            setattr(function, CACHED_AS, self)
        self.__signature__ = for_fastapi(function, hints, vary_by)

    def _make_codec(self, *, second_ask: bool) -> EntryCodec:
        return EntryCodec(
            self._policy,
            self._options,
            self.builder.codec,
            RESPONSE_FORMAT,
            is_negative=is_negative,
            second_ask=second_ask,
        )

    async def __call__(self, **kwargs: Any) -> Response:
        if not self.checked:
            raise RuntimeError(
                f"nobody has checked that {self.arguments.name} may be cached: the application "
                "needs app.add_middleware(HttpCacheMiddleware), and its routes before it starts"
            )
        request: Request = kwargs.pop(REQUEST)
        from_dependencies: Response = kwargs.pop(RESPONSE)
        principal = None if self.public else kwargs.pop(PRINCIPAL)
        personalized_by = request.scope.get(PERSONALIZED_BY)
        is_keyed = personalized_by is None or personalized_by <= self.varies_by
        if is_keyed:
            stored, outcome, times = await self._get(request, principal, kwargs)
        else:  # it may depend on what is no part of the key
            stored, outcome, times = await self._build(kwargs)
        if isinstance(stored.unstorable, Response):
            return stored.unstorable
        if stored.unstorable is not None:
            raise stored.unstorable
        status: int | None = from_dependencies.status_code
        if is_keyed and (status is None or self.builder.returns_response):
            asked = conditions(request.scope["headers"]) if not stored.is_error else []
            response = self.renderer.render(stored, outcome, times, now_ms(), asked)
        else:
            response = self._for_one(stored, status or stored.status, is_keyed)
        if stored.is_error:
            raise HTTPException(
                stored.status,
                detail=json.loads(stored.body),
                headers={k.decode("latin-1"): v.decode("latin-1") for k, v in response.headers},
            )
        answer = CachedResponse(response)
        # As FastAPI does: a Response goes out as it is.
        if (more := from_dependencies.raw_headers) and not self.builder.returns_response:
            theirs = {name for name, _ in more} & _SAID_ONCE
            answer.raw_headers = [h for h in response.headers if h[0] not in theirs] + more
        return answer

    def _for_one(self, stored: StoredResponse, status: int, is_keyed: bool) -> PreparedResponse:
        """Make a response that is not for everybody who has its key: nobody else may keep it."""
        headers = self.renderer.unknown(stored.headers) if is_keyed else stored.headers + _PERSONAL
        body = stored.body
        if not is_body_allowed_for_status_code(status):
            headers = [pair for pair in headers if pair[0] != b"content-length"]
            body = b""
        return PreparedResponse(status, headers, body)

    def entry_keys(self, arguments: dict[str, Any], principal: Any) -> EntryKeys:
        """Return where the response for these arguments is kept."""
        key = self.arguments.key(arguments)
        if not self.public:
            # Hashed: who reads key names in Redis does not read names of people.
            who = blake2b(canonical(principal).encode("utf-8", "surrogatepass"), digest_size=16)
            key += f"@{who.hexdigest()}"
        return self._keyspace.entry_keys(self._policy, key, self.arguments.tags(arguments))

    async def invalidate(self, **arguments: Any) -> None:
        """Remove the response for these arguments; for a route with `vary_by` use a tag.

        Raises:
            TypeError: the route varies by who asks, or an argument without a default is missing.
        """
        if not self.public:
            raise TypeError(f"{self.arguments.name} varies by who asks: invalidate a tag of it")
        key = self.arguments.key(self.arguments.bind(**arguments))
        await self.engine.delete([self._keyspace.entry_keys(self._policy, key, ())])

    async def warm(self, **arguments: Any) -> None:
        """Compute the response for these arguments unless it is cached; see `refresh`."""
        await self.engine.get(self._lookup(arguments))

    async def refresh(self, **arguments: Any) -> None:
        """Compute the response for these arguments now; see `CachePolicy.refresh`.

        What dependencies would give the function is to be given here.

        Raises:
            TypeError: the route varies by who asks, or an argument without a default is missing.
            Exception: what the function raised.
        """
        await self.engine.refresh(self._lookup(arguments))

    def _lookup(self, arguments: dict[str, Any]) -> Lookup:
        """Return how the response for these arguments is made without a request."""
        if not self.public:
            raise TypeError(f"{self.arguments.name} varies by who asks: invalidate a tag of it")
        bound = self.arguments.bind(**arguments)
        keys = self.entry_keys(bound, None)
        return Lookup(self.codec, keys, lambda: self.builder.build(bound), is_safe=not self.ignored)

    async def _get(self, request: Request, principal: Any, arguments: dict[str, Any]) -> Result:
        """Return the response, and how it came about."""
        peek: Peek | None = request.scope.get(PEEK)
        if peek is not None and peek.is_of(self, request.scope):
            keys, read = peek.keys, peek.read
        else:
            keys = self.entry_keys(arguments, principal)
            kept = self.engine.recall(self.codec, keys)
            read = kept or (await self.engine.fetch(self.codec, (keys,)))[0]
        # A short way for what is most of all: nothing is prepared to load it.
        entry, outcome = read.entry, read.hit(now_ms())
        if entry is not None and outcome is not None and read.value is not None:
            self.codec.count(outcome)
            return read.value, outcome, entry
        return await self._load(keys, read, arguments)

    async def _load(self, keys: EntryKeys, read: ReadResult, arguments: dict[str, Any]) -> Result:
        """Return the response that is loaded, joined, or old and still served."""
        made: list[StoredResponse] = []
        # For one principal: what dependencies have set in context variables is right for it.
        context = None if self.public else copy_context()

        async def build() -> StoredResponse | Kept[StoredResponse]:
            if context is not None:
                adopt(context)
            try:
                built = await self.builder.build(arguments)
            except ServerErrorResponse as failed:
                made.append(failed.response)
                raise
            made.append(plain(built))
            return built

        codec = self._made_up_codec if self.arguments.is_made_up(arguments) else self.codec
        lookup = Lookup(codec, keys, build, is_safe=not self.ignored)
        stored: StoredResponse | None
        try:
            result = await self.engine.get(lookup, read)
            stored = result.value
        except ServerErrorResponse as failed:
            stored = failed.response
        else:
            if stored is not None and stored.unstorable is None:
                return stored, result.outcome, result
        if stored is None or not any(stored is mine for mine in made):
            # None: a damaged entry. Otherwise it was meant for the request that made it, and for
            # nobody who waited with it.
            return await self._build(arguments)
        return _made_now(stored)

    async def _build(self, arguments: dict[str, Any]) -> Result:
        """Make the response for this request, of which nothing is kept."""
        try:
            stored: StoredResponse = plain(await self.builder.build(arguments))
        except ServerErrorResponse as failed:
            stored = failed.response
        return _made_now(stored)


def _made_now(stored: StoredResponse) -> Result:
    now = now_ms()
    return stored, Outcome.MISS, CacheResult(stored, Outcome.MISS, now, now)
