"""The server did as asked, and its reply never arrived."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.locks import Locks, LockUnavailable
from app.core.locks.node import Node
from devservers.waiting import HANG, until
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import PREFIX, Nodes, open_locks, plain_client
from tests.support.faultproxy import FaultProxy

_ROUNDS = 18


@asynccontextmanager
async def losing_replies(proxies: Sequence[FaultProxy]) -> AsyncIterator[None]:
    """What the block sends arrives, its first replies do not; soon the connections break."""
    lost = sum(proxy.lost for proxy in proxies)

    async def break_connections() -> None:
        await until(lambda: sum(proxy.lost for proxy in proxies) > lost, what="a reply to lose")
        await asyncio.sleep(0.03)
        for proxy in proxies:
            await proxy.heal()

    for proxy in proxies:
        await proxy.drop_replies()
    breaking = asyncio.create_task(break_connections())
    try:
        yield
    finally:
        await breaking


@pytest.mark.slow
async def test_lost_replies(nodes: Nodes, others: Locks, record_fault: RecordFault) -> None:
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy(server.host, server.port))
            for server in nodes.servers
        ]
        urls = [proxy.url for proxy in proxies]
        locks = await stack.enter_async_context(open_locks(nodes.strategy, urls))
        async with locks.hold("warm-up") as lease:  # the servers learn the scripts
            await lease.extend()
        connections = sum(proxy.accepted for proxy in proxies)
        fences: list[int] = []
        double_grants = 0
        for number in range(_ROUNDS):
            unlucky = random.sample(proxies, k=(len(proxies) + 1) // 2)
            hold = locks.hold("name", ttl=60, timeout=HANG)
            if number % 3 == 0:
                async with losing_replies(unlucky):
                    lease = await hold.__aenter__()
            else:
                lease = await hold.__aenter__()
            fences.append(lease.fence)
            if number % 3 == 1:
                async with losing_replies(unlucky):
                    await _extend(lease.extend)
            double_grants += await others.try_acquire("name") is not None
            if number % 3 == 2:
                async with losing_replies(unlucky):
                    await hold.__aexit__(None, None, None)
            else:
                await hold.__aexit__(None, None, None)
        await nodes.none_left()
        broken = sum(proxy.accepted for proxy in proxies) - connections
        control = await _control(proxies[0], nodes)
    disorder = int(fences != sorted(set(fences)))
    record_fault(
        "lost replies to acquire, extend and release",
        nodes.strategy,
        runs=_ROUNDS,
        violations=double_grants + disorder,
        control=f"redis-py's Lock: {control} orphans of 1",
    )
    assert broken >= _ROUNDS / 2, "replies were lost, and connections with them"
    assert (double_grants, disorder) == (0, 0)
    assert control == 1


async def _extend(extend: Callable[[], Awaitable[None]]) -> None:
    try:
        await extend()
    except LockUnavailable:
        return  # nobody knows whether it worked, and the lease goes on to its old deadline


async def _control(proxy: FaultProxy, nodes: Nodes) -> int:
    """redis-py repeats the SET NX, is refused by its own key, and leaves that behind."""
    client = Redis(port=proxy.port, socket_timeout=10, retry=Retry(NoBackoff(), 3))
    try:
        await client.ping()
        async with losing_replies([proxy]):
            assert not await client.lock("naive", timeout=600, blocking=False).acquire()
    finally:
        await client.aclose()
    keys = await nodes.on_all("EXISTS", "naive")
    return sum(keys)


async def test_a_lost_grant_that_is_refused_when_repeated_is_given_back(
    single: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that is asked again has the key, as a promoted replica may, and has to wait."""
    [url] = single.urls
    async with (
        plain_client(url) as client,
        Locks(Node(client), prefix=PREFIX, quarantine=60, max_ttl=60) as locks,
    ):
        await single.end_quarantine()
        async with locks.hold("warm-up"):  # the server learns the script
            pass
        send: Callable[..., Awaitable[Any]] = client.execute_command

        async def fail_over(*command: Any) -> None:
            monkeypatch.undo()
            await send(*command)
            assert await single.lock_keys() == 1
            old_primary = ("id", "of the old primary", "server", "the old primary")
            await send("HSET", f"{PREFIX}:{{0}}:restart", *old_primary)
            raise RedisConnectionError("the reply is lost")

        monkeypatch.setattr(client, "execute_command", fail_over)
        assert await locks.try_acquire("name", ttl=60) is None
    assert await single.lock_keys() == 0
