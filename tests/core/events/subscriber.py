"""A process that subscribes, and prints the number of each event: `python -m ... URL TTL`."""

import asyncio
import sys

from tests.core.events.conftest import subscribing


async def main(url: str, ttl: float) -> None:
    async with subscribing(url, lambda event: print(event.number, flush=True), ownership_ttl=ttl):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
