"""One process that changes values, invalidates them and reads them; run by test_stale_reads.

The truth is a number for each key, on a server that nothing happens to. Whoever makes it larger
invalidates the entry, and notes when that was confirmed, by the clock of that server. A read that
begins later must not bring a smaller number.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy, CacheUnavailable
from app.core.cache import store as store_module
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.keys import EntryKeys
from app.core.cache.results import ReadResult
from app.core.cache.server_watch import ServerWatch
from tests.core.cache.counters import reads
from tests.core.cache.harness import UNCHECKED_STORE, open_cache

KEYS, TASKS = 4, 6
LONGEST_LOAD = 0.02
"""Seconds."""


class Checker:
    """Compares what reads bring with what was confirmed before they began."""

    def __init__(self, cache: Cache, truth: Redis, seed: int) -> None:
        self._cache = cache
        self._policy: CachePolicy[int] = cache.policy(
            "item", int, ttl=60, stale_while_revalidate=60, stale_if_error=60
        )
        self._truth = truth
        self._random = Random(seed)
        self.reads = self.confirmed = self.unconfirmed = 0
        self.violations: list[str] = []
        self.violations_offline: list[str] = []
        self.oldest_offline = 0.0
        self._offline: dict[asyncio.Task[Any] | None, bool] = {}
        self._fetch = cache.engine.fetch
        cache.engine.fetch = self._note_offline  # type: ignore[method-assign]  # looked at

    async def _note_offline(
        self, codec: EntryCodec, entries: Sequence[EntryKeys]
    ) -> list[ReadResult]:
        reads = await self._fetch(codec, entries)
        self._offline[asyncio.current_task()] = not reads[0].online
        return reads

    async def run(self) -> None:
        """Work until the test says stop."""
        while not await self._truth.exists("stop"):
            key = self._random.randrange(KEYS)
            await (self._write(key) if self._random.random() < 0.2 else self._read(key))
            await asyncio.sleep(self._random.choice([0, 0.002]))

    async def _write(self, key: int) -> None:
        number = await self._truth.incr(f"truth:{key}")
        way = self._random.randrange(3)
        try:
            if way == 0:
                await self._policy.invalidate(key, strict=True)
            elif way == 1:
                await self._cache.invalidate_tags(f"tag:{key}", strict=True)
            else:
                await self._policy.clear(strict=True)
        except CacheUnavailable:
            self.unconfirmed += 1
            return
        self.confirmed += 1
        await self._truth.zadd(f"confirmed:{key}", {str(number): await self._now()})

    async def _read(self, key: int) -> None:
        async def load() -> int:
            number = int(await self._truth.get(f"truth:{key}") or 0)
            await asyncio.sleep(self._random.uniform(0, LONGEST_LOAD))
            return number

        began = await self._now()
        found = await self._policy.get_or_load(key, load, tags=[f"tag:{key}"])
        offline = self._offline.pop(asyncio.current_task(), False)
        self.reads += 1
        told: Any = await self._truth.zrangebyscore(f"confirmed:{key}", 0, began, withscores=True)
        missed = [float(at) for number, at in told if int(number) > found]
        if not missed:
            return
        age = began - min(missed)
        text = f"{found} for {key}, {age:.3f} s after a newer one was confirmed"
        if offline:
            self.violations_offline.append(text)
            self.oldest_offline = max(self.oldest_offline, age)
        else:
            self.violations.append(text)
            await self._truth.incr("violations")

    async def _now(self) -> float:
        told: Any = await self._truth.time()
        return float(told[0]) + float(told[1]) / 1_000_000


async def nobody(*_: object) -> None: ...


MECHANISMS: dict[str, tuple[object, str, object]] = {
    "looking at servers": (ServerWatch, "check_connection", nobody),
    "checking leases": (store_module, "STORE", UNCHECKED_STORE),
}
"""Where each is, and what it is for controls."""


async def run(url: str, truth_url: str, seed: int) -> dict[str, Any]:
    truth, hits = Redis.from_url(truth_url), reads("item", "hit")
    async with open_cache(url, read_timeout=0.05, command_timeout=0.2, pool_timeout=0.2) as cache:
        checker = Checker(cache, truth, seed)
        await truth.incr("ready")
        await asyncio.gather(*(checker.run() for _ in range(TASKS)))
    await truth.aclose()
    return {
        "reads": checker.reads,
        "hits": reads("item", "hit") - hits,
        "confirmed": checker.confirmed,
        "unconfirmed": checker.unconfirmed,
        "violations": checker.violations,
        "offline": checker.violations_offline,
        "oldest_offline": checker.oldest_offline,
    }


if __name__ == "__main__":
    for line in sys.stdin:  # one scenario after the other
        order = json.loads(line)
        with pytest.MonkeyPatch.context() as patch:
            if order["without"]:
                patch.setattr(*MECHANISMS[order["without"]])
            told = asyncio.run(run(order["url"], order["truth"], order["seed"]))
        print(json.dumps(told), flush=True)
