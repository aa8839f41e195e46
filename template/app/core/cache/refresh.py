"""Refreshing in the background: the old entries are served meanwhile, and nobody waits."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from app.core.cache import metrics
from app.core.cache.concurrency import Cooldown
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.fill import Filler
from app.core.cache.outage import CacheUnavailable
from app.core.cache.results import Outcome
from app.core.cache.store import LeaseOutcome, LeaseRequest
from app.core.tasks import Tasks

K = TypeVar("K")

log = structlog.get_logger(__name__)

_COOLDOWN_SECONDS = 0.25
"""For so long this process leaves an entry alone that it could not refresh."""


class Refresher:
    """The background refreshes of one process."""

    def __init__(self, filler: Filler, tasks: Tasks, *, max_refreshes: int) -> None:
        """Run at most `max_refreshes` at once, in `tasks`.

        One more is left out, not queued: the next read asks again.
        """
        self._filler = filler
        self._tasks = tasks
        self._free = max_refreshes
        self._under_way: set[str] = set()
        self._cooldown = Cooldown()

    def start(
        self,
        codec: EntryCodec,
        due: Mapping[K, LeaseRequest],
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]],
    ) -> None:
        """Load anew what nobody else is loading."""
        requests = {
            key: request for key, request in due.items() if self._may_start(request.keys.value)
        }
        if not requests:
            return
        if not self._free:
            metrics.refreshes.labels(codec.policy, "dropped").inc(len(requests))
            return
        self._free -= 1
        self._under_way.update(request.keys.value for request in requests.values())
        task = self._tasks.start(self._refresh(codec, requests, load))
        task.add_done_callback(lambda _: self._ended(requests))

    def _may_start(self, name: str) -> bool:
        return name not in self._under_way and not self._cooldown.holds(name)

    def _ended(self, requests: Mapping[K, LeaseRequest]) -> None:
        self._free += 1
        self._under_way.difference_update(request.keys.value for request in requests.values())

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
                    codec, granted, versions, partial(load, list(granted))
                )
                for key, result in loaded.items():
                    if result.outcome is Outcome.MISS:
                        outcomes[key] = "done"
        except CacheUnavailable:
            pass  # who serves old entries can go on doing so
        except Exception as error:
            log.warning("cache.refresh_failed", policy=codec.policy, error=repr(error))
        finally:
            for key, outcome in outcomes.items():
                metrics.refreshes.labels(codec.policy, outcome).inc()
                if outcome != "done":
                    self._cooldown.set(requests[key].keys.value, _COOLDOWN_SECONDS)
