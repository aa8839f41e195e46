"""Refreshing in the background: the old entries are served meanwhile, and nobody waits."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeVar

import structlog

from app.core.cache import metrics
from app.core.cache.concurrency import Cooldown, Detached
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.fill import Filler, LeaseRequest
from app.core.cache.outage import CacheUnavailable
from app.core.cache.results import Outcome
from app.core.cache.store import LeaseOutcome

K = TypeVar("K")

log = structlog.get_logger(__name__)

_PAUSE = 0.25
"""Seconds for which this process leaves an entry alone that it could not refresh."""


class Refresher:
    """The refreshes of one process."""

    def __init__(self, filler: Filler, context: Context, *, most: int) -> None:
        """`most` run at once; one more is left out, not queued: the next read asks again."""
        self._filler = filler
        self._most = most
        self._detached = Detached(context)
        self._under_way: set[str] = set()
        self._paused = Cooldown()

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        return self._detached.tasks

    def start(
        self,
        codec: EntryCodec,
        stale: Mapping[K, LeaseRequest],
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]],
    ) -> None:
        """Load anew what nobody else is loading."""
        requests = {
            key: request for key, request in stale.items() if self._may_start(request.keys.value)
        }
        if not requests:
            return
        if len(self.tasks) >= self._most:
            metrics.refreshes.labels(codec.policy, "dropped").inc(len(requests))
            return
        names = [request.keys.value for request in requests.values()]
        self._under_way.update(names)
        task = self._detached.run(self._refresh(codec, requests, load))
        task.add_done_callback(lambda _: self._under_way.difference_update(names))

    def _may_start(self, name: str) -> bool:
        return name not in self._under_way and not self._paused.holds(name)

    async def _refresh(
        self,
        codec: EntryCodec,
        requests: Mapping[K, LeaseRequest],
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]],
    ) -> None:
        outcomes = dict.fromkeys(requests, "failed")
        try:
            replies, versions = await self._filler.lease(codec, list(requests.values()))
            granted = {}
            for (key, request), reply in zip(requests.items(), replies, strict=True):
                if reply.outcome is LeaseOutcome.GRANTED:
                    granted[key] = request
                else:
                    outcomes[key] = "denied"
            if granted:
                loaded = await self._filler.fill(
                    codec, granted, versions, lambda: load(list(granted))
                )
                for key, one in loaded.items():
                    if one.outcome is Outcome.MISS:
                        outcomes[key] = "done"
        except CacheUnavailable:
            pass  # who serves old entries can go on doing so
        except Exception as error:
            log.warning("cache.refresh_failed", policy=codec.policy, error=repr(error))
        finally:
            for key, outcome in outcomes.items():
                metrics.refreshes.labels(codec.policy, outcome).inc()
                if outcome != "done":
                    self._paused.set(requests[key].keys.value, _PAUSE)
