"""What a cache hit costs beside a plain GET: `python -m benchmarks.hits` (under a minute).

Each round measures both, one right after the other, so that what else the machine does concerns
both alike; the figures are medians of the rounds' ratios. Below 1 the hit is faster.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1] / "template"))

from pydantic import BaseModel

from app.core.cache import Cache
from app.core.redis import ClientOptions, create_client
from app.core.serializers.json import JsonSerializer
from devservers.valkey import EmbeddedValkey

ROUNDS = 9
READS = 4000
READERS = (1, 10, 64, 256)


class Item(BaseModel):
    """About 1 kB as JSON."""

    id: int
    name: str
    description: str


async def seconds(read: Callable[[], Awaitable[object]], readers: int) -> float:
    """The time that `READS` reads take, shared between readers."""

    async def reader() -> None:
        for _ in range(READS // readers):
            await read()

    started = perf_counter()
    await asyncio.gather(*(reader() for _ in range(readers)))
    return perf_counter() - started


async def main() -> None:
    with EmbeddedValkey() as valkey:
        options = ClientOptions(name="benchmark", pool_size=64, pool_timeout=30, timeout=5)
        client = create_client(valkey.url, options)
        cache = Cache(client, service="benchmark", serializer=JsonSerializer(), read_timeout=5)
        async with cache:
            policy = cache.policy("item", Item, ttl=3600)
            item = Item(id=1, name="lamp", description="x" * 1000)

            async def load() -> Item:
                return item

            async def hit() -> object:
                return await policy.get_or_load(1, load)

            async def tagged_hit() -> object:
                return await policy.get_or_load(2, load, tags=["a", "b", "c"])

            async def get() -> object:
                return await client.get("plain")

            await client.set("plain", item.model_dump_json())
            await hit(), await tagged_hit()
            print("seconds of a hit / seconds of redis.asyncio GET, 1 kB, decoded into a model")
            print(f"{'readers':>8} {'hit':>16} {'hit, 3 tags':>16}")
            for readers in READERS:
                columns = []
                for read in (hit, tagged_hit):
                    ratios = []
                    for _ in range(ROUNDS):
                        plain = await seconds(get, readers)
                        ratios.append(await seconds(read, readers) / plain)
                    low, _, high = quantiles(ratios, n=4)
                    columns.append(f"{median(ratios):.2f} ({low:.2f}-{high:.2f})")
                print(f"{readers:>8} {columns[0]:>16} {columns[1]:>16}")
        await client.aclose()


if __name__ == "__main__":
    asyncio.run(main())
