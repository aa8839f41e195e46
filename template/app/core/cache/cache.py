"""The cache of one service: what features are given."""

from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from app.core.cache import metrics
from app.core.cache.backplane import Announcer, Backplane
from app.core.cache.engine import Engine
from app.core.cache.http.route import CachedRoute
from app.core.cache.keys import Keyspace
from app.core.cache.near import NearCache
from app.core.cache.options import MoreOptions, PolicyOptions
from app.core.cache.outage import Breaker, CacheUnavailable, Recovery
from app.core.cache.policy import CachePolicy
from app.core.cache.server_watch import ServerWatch
from app.core.cache.store import CacheStore
from app.core.cache.warming import HotCalls, Warmer, WarmingReport
from app.core.redis import BatchReader, RedisClient, on_connect
from app.core.serializers import Serializer
from app.core.tasks import Tasks

T = TypeVar("T")

_GRACE_SECONDS = 5.0
"""For so long loads may go on when the cache is left."""


class Cache:
    """Policies, and what they share: one client, one breaker, one set of loads under way.

    Making it costs nothing, so features declare their policies while the application is put
    together. Entering it starts the recovery; leaving it lets loads finish, and tries once more to
    carry out the invalidations that wait. The client stays the caller's.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        service: str,
        serializer: Serializer,
        read_timeout: float = 0.05,
        breaker_threshold: int = 3,
        max_loads: int = 100,
        max_refreshes: int = 20,
        epoch: int = 1,
        near_bytes: int = 0,
        near_client: RedisClient | None = None,
        enabled: bool = True,
    ) -> None:
        """Make the cache of `service`, whose name begins every key.

        Args:
            read_timeout: the longest a read waits for Redis before the loader answers, in seconds.
            breaker_threshold: failures in a row after which Redis is left alone for a while.
            max_loads: loaders that may run at once.
            max_refreshes: background refreshes that may run at once.
            epoch: a new number leaves all entries behind.
            near_bytes: memory of this process for policies with a `near_ttl`; 0: none.
            near_client: what the near cache listens with; it keeps one connection for itself.
            enabled: without, every read loads, and nothing is kept. Invalidations are carried out
                all the same: for other processes, and for the time when it is enabled again.
        """
        self.keyspace = Keyspace(service, epoch)
        self.serializer = serializer
        self._policies: dict[str, CachePolicy[Any]] = {}
        self.routes: list[CachedRoute] = []
        """All that were declared, to find those that no application serves."""
        watch = ServerWatch(
            client,
            self.keyspace.servers,
            policies=lambda: {name: self.keyspace.policy_version(name) for name in self._policies},
            drop_later=lambda versions: self.engine.drop_versions_later(
                versions, "a node of the cluster may have forgotten invalidations"
            ),
        )
        on_connect(client, watch.check_connection)
        self._recovery = Recovery(
            probe=self.keyspace.probe,
            all_policies=lambda: map(self.keyspace.policy_version, self._policies),
            replayed=watch.mark_servers,
        )
        self._breaker = Breaker(threshold=breaker_threshold, on_open=self._recovery.wake)
        self._announcer = Announcer(self.keyspace.channel)
        self._near, self._backplane = None, None
        if enabled and near_bytes and near_client is not None:
            self._near = NearCache(near_bytes)
            self._backplane = Backplane(near_client, self.keyspace.channel, self._near)
        self._store = CacheStore(
            client,
            BatchReader(client, timeout=read_timeout, observe=metrics.read_seconds.observe),
            self._breaker,
            self._announcer,
        )
        self.engine = Engine(
            self._store,
            self._near,
            self._breaker,
            self._recovery,
            max_loads=max_loads,
            max_refreshes=max_refreshes,
            is_enabled=enabled,
        )
        self._tasks = Tasks()
        self._warmer = Warmer()
        self.is_enabled = enabled

    async def __aenter__(self) -> Self:
        self._tasks.start(self._recovery.run(self._store, self._breaker))
        if self._backplane is not None:
            self._backplane.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.engine.drain(grace=_GRACE_SECONDS)
        await self._tasks.stop()
        if self._backplane is not None:
            await self._backplane.close()
        await self._recovery.finish(self._store)

    @overload
    def policy(
        self, name: str, type_: type[T], *, ttl: float, **options: Unpack[MoreOptions]
    ) -> CachePolicy[T]: ...

    @overload
    def policy(
        self, name: str, *, ttl: float, **options: Unpack[MoreOptions]
    ) -> CachePolicy[Any]: ...

    def policy(
        self,
        name: str,
        type_: type[Any] | None = None,
        *,
        ttl: float,
        **options: Unpack[MoreOptions],
    ) -> CachePolicy[Any]:
        """Declare a kind of entry; `options` are those of `PolicyOptions`, times in seconds.

        Raises:
            ValueError: an option is out of its range, or the name is taken or not plain.
        """
        if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise ValueError(f"a policy's name is letters, digits, - and _, not {name!r}")
        if name in self._policies:
            raise ValueError(f"there is a policy {name!r} already")
        policy: CachePolicy[Any] = CachePolicy(
            self.engine,
            self.keyspace,
            self.serializer,
            name,
            type_,
            PolicyOptions(ttl=ttl, **options),
            routes=self.routes,
        )
        metrics.expect_policy(name)
        self._policies[name] = policy
        return policy

    def keep_warm(self, name: str, calls: HotCalls) -> None:
        """Say what is asked for most: it is loaded at the start, and anew every night.

        `calls` yields cached functions or public routes with their arguments, and may look up in a
        database which these are:

            async def hottest() -> AsyncIterator[HotCall]:
                for item in (await items.page(None, 20)).items:
                    yield read_item, {"item_id": item.id}

        Raises:
            ValueError: the name, which is for the log, is taken.
        """
        self._warmer.add(name, calls)

    async def warm(self) -> WarmingReport:
        """Load what `keep_warm` names and is not cached, a few at once.

        Of processes that start together one loads each entry; the others wait for it, for up to
        `lease_wait`. What fails is logged and counted.
        """
        return await self._warmer.warm()

    async def refresh(self) -> WarmingReport:
        """Load what `keep_warm` names anew, in place, a few at once.

        What fails is logged and counted, and keeps its old value. Two processes that do this at the
        same time load everything twice.
        """
        return await self._warmer.refresh()

    async def invalidate_tags(self, *tags: str, strict: bool = False) -> None:
        """Make every entry invalid that carries one of the tags.

        One round trip; two in a cluster. See `CachePolicy.invalidate` for what happens while Redis
        is away or refuses writes.

        Raises:
            CacheUnavailable: with `strict`, if it could not be done now (it is still queued).
        """
        await self.engine.drop_versions(list(map(self.keyspace.tag_version, tags)), strict=strict)

    async def check(self) -> None:
        """Check the cache for the health page.

        Raises:
            CacheUnavailable: Redis is not asked at the moment, invalidations wait for it, nothing
                could be stored lately, the near cache is not allowed to work, or the clocks differ
                by which entries are fresh.
        """
        outage, complaints = self._breaker.is_open, []
        if outage or self._recovery.queued:
            state = "open" if outage else "closed"
            complaints = [f"the breaker is {state}, {self._recovery.queued} invalidations wait"]
        if refusal := self._store.refusal:
            complaints.append(refusal)
        if self._backplane and (refusal := self._backplane.refusal or self._announcer.refusal):
            complaints.append(f"the near cache is off: {refusal}")
        if (problem := self._store.clock.problem) is not None:
            complaints.append(problem)
        if complaints:
            raise CacheUnavailable("; ".join(complaints), outage=outage)
