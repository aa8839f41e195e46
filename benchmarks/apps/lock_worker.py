"""Locks of one process, by one library.

    python lock_worker.py ours|redis-py|pottery URL...

Questions: {"do": "alone", "runs": 100, "most": 1} - seconds of an acquisition with its release,
each, of those that began within `most` seconds;
{"do": "contend", "tasks": 10, "turns": 10} - when which task held the one lock they all want:
[from, to, task], by the machine's clock.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

Hold = Callable[[str], AbstractAsyncContextManager[object]]
_WORK = 0.002
"""Seconds that a holder holds."""


@asynccontextmanager
async def ours(urls: Sequence[str]) -> AsyncIterator[Hold]:
    from app.core.locks import Locks
    from app.core.redis import ClientOptions, create_client

    async with AsyncExitStack() as stack:
        clients = [create_client(url, ClientOptions(name="benchmark")) for url in urls]
        for client in clients:
            stack.push_async_callback(client.aclose)
        if len(clients) == 1:
            from app.core.locks.node import Node

            store = Node(clients[0])
        else:
            from app.core.locks.redlock import RedlockStore

            store = RedlockStore(clients)
        locks = await stack.enter_async_context(Locks(store, prefix="bench", quarantine=0))
        yield lambda name: locks.hold(name, timeout=60)


@asynccontextmanager
async def redis_py(urls: Sequence[str]) -> AsyncIterator[Hold]:
    from redis.asyncio import Redis

    async with Redis.from_url(urls[0]) as client:
        yield lambda name: client.lock(f"bench:{name}", timeout=10, blocking_timeout=60)


@asynccontextmanager
async def pottery(urls: Sequence[str]) -> AsyncIterator[Hold]:
    from pottery import AIORedlock
    from redis.asyncio import Redis

    clients = [Redis.from_url(url, socket_timeout=0.5) for url in urls]
    yield lambda name: AIORedlock(key=name, masters=set(clients), auto_release_time=10)
    for client in clients:
        await client.aclose()


LIBRARIES = {"ours": ours, "redis-py": redis_py, "pottery": pottery}


async def alone(hold: Hold, runs: int, most: float) -> list[float]:
    times = []
    end = time.perf_counter() + most
    for run in range(runs):
        if (began := time.perf_counter()) > end:
            break
        async with hold(f"free-{run % 50}"):
            pass
        times.append(time.perf_counter() - began)
    return times


async def contend(hold: Hold, tasks: int, turns: int) -> list[tuple[float, float, str]]:
    periods = []

    async def insist(task: str) -> None:
        for _ in range(turns):
            async with hold("busy"):
                began = time.monotonic()
                await asyncio.sleep(_WORK)
                periods.append((began, time.monotonic(), task))

    await asyncio.gather(*(insist(f"{os.getpid()} {task}") for task in range(tasks)))
    return periods


async def main(library: str, urls: Sequence[str]) -> None:
    async with LIBRARIES[library](urls) as hold:
        while line := await asyncio.to_thread(sys.stdin.readline):
            question = json.loads(line)
            what = {"alone": alone, "contend": contend}[question.pop("do")]
            print(json.dumps(await what(hold, **question)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
