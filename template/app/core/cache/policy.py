"""A policy: one kind of entry, with its rules and all that can be done with it."""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import (
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
    overload,
)

from app.core.cache.engine import Engine
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.function import CachedFunction, CacheFunction, Tags
from app.core.cache.http.route import CachedRoute
from app.core.cache.kept import Kept, plain_type
from app.core.cache.keys import Keyspace, canonical
from app.core.cache.loading import BatchLookup, Lookup
from app.core.cache.options import PolicyOptions, SecondAsk
from app.core.serializers import Serializer

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
P = ParamSpec("P")


class CachePolicy(Generic[T]):
    """Made by `Cache.policy`; its name is the namespace of its entries and labels its metrics."""

    def __init__(
        self,
        engine: Engine,
        keyspace: Keyspace,
        serializer: Serializer,
        name: str,
        type_: type[T] | None,
        options: PolicyOptions,
        *,
        routes: list[CachedRoute],
    ) -> None:
        """Declare a kind of entry; its routes are added to `routes`."""
        self.name = name
        self.options = options
        self._engine = engine
        self._keyspace = keyspace
        self._serializer = serializer
        self._routes = routes
        self._codec = None if type_ is None else self._make_codec(type_)
        self._inferred: dict[Any, EntryCodec] = {}
        self._functions: set[str] = set()

    @overload
    async def get_or_load(
        self, key: Any, loader: Callable[[], Awaitable[T | Kept[T]]], *, tags: Sequence[str] = ()
    ) -> T: ...

    @overload
    async def get_or_load(
        self,
        key: Any,
        loader: Callable[[], Awaitable[T | Kept[T | None] | None]],
        *,
        tags: Sequence[str] = (),
    ) -> T | None: ...

    async def get_or_load(
        self, key: Any, loader: Callable[[], Awaitable[Any]], *, tags: Sequence[str] = ()
    ) -> Any:
        """Return the value of `key`, from the cache or from `loader`.

        None is a value too, kept as "there is none" for `negative_ttl`. A loader that returns
        `keep(value, ttl=...)` or `do_not_keep(value)` decides itself how long its value is kept.
        `key` is anything with a canonical text: an id, or a tuple of what the value depends on.
        `tags` name what else can invalidate it, and are the same at every read of the key.

        Raises:
            UnkeyableType: the key has no canonical text.
            TypeError: the loader has captured a database session, which it may outlive.
            TimeoutError: the loader took longer than `loader_timeout`.
            Exception: whatever the loader raised, when there is no old value to serve.
        """
        keys = self._keyspace.entry_keys(self.name, canonical(key), tags)
        result = await self._engine.get(Lookup(self._codec_for(loader), keys, loader))
        return result.value

    async def get_or_load_many(
        self,
        keys: Sequence[K],
        loader: Callable[[Sequence[K]], Awaitable[Mapping[K, T | Kept[T | None]]]],
        *,
        tags: Sequence[str] = (),
    ) -> dict[K, T | None]:
        """Return the values of `keys`; `loader` gets those that are missing, and returns a mapping.

        A key that it leaves out is kept as "there is none"; `keep` and `do_not_keep` are for each
        value. Round trips: 1 when all are there, 3 when some are not.
        """
        codec = self._codec_for(loader, of_many=True)
        name, entry_keys = self.name, self._keyspace.entry_keys
        entries = {key: entry_keys(name, canonical(key), tags) for key in dict.fromkeys(keys)}
        return await self._engine.get_many(BatchLookup(codec, entries, loader))

    async def refresh(
        self, key: Any, loader: Callable[[], Awaitable[T | Kept[T]]], *, tags: Sequence[str] = ()
    ) -> T:
        """Load the value of `key` now, and keep it instead of the old one, as a nightly job does.

        Callers of `get_or_load` get the old value until then, and also if the load fails. A load
        of another caller that is under way is not stored.

        Raises:
            Exception: whatever the loader raised; the errors of `get_or_load`.
        """
        keys = self._keyspace.entry_keys(self.name, canonical(key), tags)
        lookup = Lookup(self._codec_for(loader), keys, loader)
        return cast(T, (await self._engine.refresh(lookup)).value)

    async def invalidate(self, *keys: Any, strict: bool = False) -> None:
        """Remove entries, and the right of every load under way to store them.

        One round trip; three in a cluster. Call it after the change is committed: no cache can mend
        a delete before it. While Redis is away, or refuses writes, the invalidation waits and is
        carried out later. Until then this process does not read from Redis, and others serve the
        old value for as long as its ttl and stale times last: use `strict` where that matters.

        Raises:
            CacheUnavailable: with `strict`, if it could not be done now (it is still queued).
        """
        entry_keys = self._keyspace.entry_keys
        entries = [entry_keys(self.name, canonical(key), ()) for key in keys]
        await self._engine.delete(entries, strict=strict)

    async def clear(self, *, strict: bool = False) -> None:
        """Remove all entries of this policy, however many: one round trip, two in a cluster.

        Raises:
            CacheUnavailable: with `strict`, as for `invalidate`.
        """
        await self._engine.drop_versions([self._keyspace.policy_version(self.name)], strict=strict)

    def cached(self, *, tags: Tags = (), ignore: Sequence[str] = ()) -> CacheFunction:
        """Cache a function: its arguments are the key, its return annotation is the type.

        `tags` are fixed, or computed by a function of (some of) the same parameters. `ignore` names
        parameters that the value does not depend on, such as a client. A function that is annotated
        to return `Kept[Item]` says with each result how long it is kept; callers get an `Item`.

        Raises (when decorating):
            TypeError: no return annotation, or one of `Kept[Item] | Item`; a parameter that cannot
                be part of a key.
        """

        def decorate(function: Callable[P, Awaitable[Any]]) -> CachedFunction[P, Any]:
            self._reserve(function.__name__)
            return CachedFunction(
                self._engine, self._keyspace, self._make_codec, function, tags, ignore
            )

        return decorate

    def http(
        self,
        *,
        public: bool = False,
        vary_by: Callable[..., Any] | None = None,
        tags: Tags = (),
        ignore: Sequence[str] = (),
        max_age: float = 0,
        second_ask: SecondAsk = False,
    ) -> Callable[[Callable[..., Any]], CachedRoute]:
        """Cache the responses of a route; the decorator goes under `@router.get(...)`.

        The path and query parameters are the key. What returns `keep(...)` or `do_not_keep(...)`,
        annotated as `Kept[Item]`, decides itself how long its response is kept.

        Args:
            public: everybody gets the same answer. A hit is answered before the route's
                dependencies run, so authentication must not be one of them.
            vary_by: a dependency that returns who is asking. Each principal has entries of their
                own, and dependencies run on every request.
            tags: as for `cached`.
            ignore: parameters that the answer does not depend on.
            max_age: for how many seconds clients may answer themselves, without asking. An
                invalidation does not reach them; with 0 they ask, and mostly get a short 304.
            second_ask: whether anybody can make up the key, as with a cursor: then a response is
                kept when it is asked for a second time within a minute, for a minute or two, and
                of all of them 8 MiB a minute in each process. Or a function of (some of) the
                parameters that says so.

        Raises (when decorating):
            TypeError: neither or both of public and vary_by; no return annotation; a parameter that
                cannot be part of a key or belongs to one request.
        """

        def decorate(function: Callable[..., Any]) -> CachedRoute:
            self._reserve(function.__name__)
            return CachedRoute(
                self._engine,
                self._keyspace,
                self.name,
                self.options,
                function,
                declared=self._routes,
                public=public,
                vary_by=vary_by,
                tags=tags,
                ignore=ignore,
                max_age=max_age,
                second_ask=second_ask,
            )

        return decorate

    def _make_codec(self, type_: Any) -> EntryCodec:
        serializer = self._serializer
        return EntryCodec(self.name, self.options, serializer.codec(type_), serializer.format)

    def _reserve(self, name: str) -> None:
        """Refuse two functions of one name: they would share keys."""
        if name in self._functions:
            raise ValueError(f"the policy {self.name!r} already caches a function {name!r}")
        self._functions.add(name)

    def _codec_for(self, loader: Callable[..., Any], *, of_many: bool = False) -> EntryCodec:
        if self._codec is not None:
            return self._codec
        returns = get_type_hints(loader).get("return")
        if of_many:  # it returns a mapping of keys to values
            returns = (get_args(returns) or (None,))[-1]
        returns = plain_type(returns)
        if returns is None:
            raise TypeError(
                f"the policy {self.name!r} does not know the type of its values: give it one, "
                f"cache.policy({self.name!r}, Item, ...), or annotate what the loader returns"
            )
        if returns not in self._inferred:
            self._inferred[returns] = self._make_codec(returns)
        return self._inferred[returns]
