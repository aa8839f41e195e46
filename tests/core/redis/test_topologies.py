"""The same client on one server, on a cluster, and on sentinels through a failover."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

from app.core.redis import BatchReader, ClientOptions, RedisClient, create_client, report
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, PATIENCE, until
from tests.core.redis.conftest import Connect, ConnectCluster
from tests.support.asking import ask
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey

KEYS = [f"key-{number}" for number in range(60)]


async def write_and_read(client: RedisClient) -> None:
    await asyncio.gather(*(client.set(key, key) for key in KEYS))
    reader = BatchReader(client, timeout=PATIENCE)
    values = await asyncio.gather(
        *(reader.read([key.encode(), b"no-" + key.encode()]) for key in KEYS)
    )
    assert values == [[key.encode(), None] for key in KEYS]


async def test_one_server(connect: Connect) -> None:
    client = connect()
    await write_and_read(client)
    server = await report(client)
    assert (server.product, server.max_memory, server.eviction) == ("Valkey", 0, "noeviction")


@pytest.mark.slow
async def test_a_cluster(connect_cluster: ConnectCluster) -> None:
    with EmbeddedCluster() as cluster:
        client = connect_cluster(cluster.url)
        await write_and_read(client)
        assert (await report(client)).product == "Valkey"
        assert not (await report(client)).evicts
        for setting in ("maxmemory", "64mb"), ("maxmemory-policy", "volatile-ttl"):
            ask(cluster.nodes[-1], "CONFIG", "SET", *setting)
        assert (await report(client)).evicts, "one of its nodes does"
        assert len({client.keyslot(key) for key in KEYS}) > 20


@pytest.mark.slow
async def test_more_callers_than_connections_wait_their_turn_in_a_cluster(
    connect_cluster: ConnectCluster,
) -> None:
    with EmbeddedCluster() as cluster:
        client = connect_cluster(cluster.url, pool_size=2, pool_timeout=HANG)
        await asyncio.gather(*(client.set(f"k{number}", "v") for number in range(500)))


@pytest.mark.slow
async def test_a_killed_node_is_an_error_for_its_slots_and_comes_back(
    connect_cluster: ConnectCluster,
) -> None:
    with EmbeddedCluster() as cluster:
        client = connect_cluster(cluster.url, timeout=0.5, connect_timeout=0.5, pool_timeout=2)
        await write_and_read(client)
        node = cluster.nodes[0]
        node.kill()
        answers = await asyncio.gather(*(client.get(k) for k in KEYS), return_exceptions=True)
        assert any(isinstance(answer, Exception) for answer in answers)
        node.restart()
        cluster.wait_until_ready()
        await until_it_works(client)
        await write_and_read(client)


@pytest.mark.slow
async def test_a_cluster_that_is_away_is_an_error_in_bounded_time_and_comes_back(
    connect_cluster: ConnectCluster,
) -> None:
    with EmbeddedCluster() as cluster:
        client = connect_cluster(cluster.url, timeout=0.5, connect_timeout=0.5, pool_timeout=2)
        reader = BatchReader(client, timeout=0.5)
        await write_and_read(client)
        for node in cluster.nodes:
            node.freeze()
        commands = [client.get(key) for key in KEYS]
        reads = [reader.read([key.encode()]) for key in KEYS]
        # One timeout after the other, or those of redis-py, would take minutes.
        async with asyncio.timeout(HANG / 2):
            answers = await asyncio.gather(*commands, *reads, return_exceptions=True)
        assert all(isinstance(answer, RedisError) for answer in answers)
        for node in cluster.nodes:
            node.thaw()
        cluster.wait_until_ready()
        await until_it_works(client)
        assert await reader.read([KEYS[0].encode()]) == [KEYS[0].encode()]


@pytest.mark.slow
def test_a_connection_of_a_cluster_that_was_closed_is_an_error_of_redis_with_uvloop() -> None:
    async def check() -> None:
        with EmbeddedCluster() as cluster:
            client = create_client(cluster.url, ClientOptions(name="test", timeout=5))
            assert isinstance(client, RedisCluster)
            reader = BatchReader(client, timeout=5)
            for ask in (client.get("key"), reader.read([b"key"])):
                await client.set("key", "value")
                for node in client.get_nodes():
                    for connection in node._connections:
                        if connection._writer is not None:
                            connection._writer.transport.abort()
                await asyncio.sleep(0.01)
                with pytest.raises(RedisError):
                    await ask
                await until_it_works(client)
            await client.aclose()

    uvloop.run(check())


async def until_it_works(client: RedisClient) -> None:
    async def works() -> bool:
        answers = await asyncio.gather(
            *(client.set(key, key) for key in KEYS), return_exceptions=True
        )
        return not any(isinstance(answer, BaseException) for answer in answers)

    await until(works, what="an answer for every key")


@pytest.mark.slow
async def test_sentinels_lead_to_the_new_primary_during_traffic(connect: Connect) -> None:
    with ReplicatedValkey() as valkey:
        client = connect(valkey.url, timeout=0.5, connect_timeout=0.5, pool_timeout=2)
        await write_and_read(client)
        wrong: list[bytes | str] = []
        served, over = 0, asyncio.Event()

        async def traffic(number: int) -> None:
            """Only the newest value that was confirmed, or a newer one, may ever be read."""
            nonlocal served
            confirmed = 0
            while not over.is_set():
                try:
                    await client.set(f"t{number}", str(confirmed + 1))
                    confirmed += 1
                    served += 1
                except (RedisError, OSError):
                    await asyncio.sleep(0.02)
                    continue
                value = await client.get(f"t{number}") if confirmed % 5 == 0 else None
                if value is not None and int(value) < confirmed:
                    wrong.append(value)

        async def tolerant(number: int) -> None:
            while not over.is_set():
                try:
                    await traffic(number)
                except (RedisError, OSError):
                    await asyncio.sleep(0.02)

        users = [asyncio.create_task(tolerant(number)) for number in range(8)]
        await until(lambda: served > 100)
        old = await asyncio.to_thread(valkey.kill_primary)
        await asyncio.to_thread(valkey.wait_for_new_primary, old)
        await until_it_works(client)
        over.set()
        await asyncio.gather(*users)
        assert wrong == []
        await write_and_read(client)


@pytest.mark.slow
async def test_a_dead_first_sentinel_costs_little(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ReplicatedValkey() as valkey:
        dead = valkey.sentinels[0]
        dead.kill()
        asked: list[int] = []
        open_connection = asyncio.open_connection

        async def connect_to(*args: Any, **kwargs: Any) -> Any:
            asked.append(kwargs["port"])
            return await open_connection(*args, **kwargs)

        monkeypatch.setattr(asyncio, "open_connection", connect_to)
        await connect(valkey.url).set("k", "v")
        assert asked.count(dead.port) == 1, "redis-py by itself tries it eleven times"


async def test_what_does_not_suit_the_service_is_said(connect: Connect) -> None:
    with EmbeddedValkey(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        found = await report(connect(server.url))
        assert found.warnings(["cache"], connections=10) == []
        (locks,) = found.warnings(["cache", "locks"], connections=10)
        assert "may evict locks" in locks
        (sessions,) = found.warnings(["cache", "sessions"], connections=10)
        assert "may evict sessions" in sessions
        assert len(found.refusals(["locks", "sessions"])) == 2
        assert found.refusals(["cache", "events"]) == []
        silent = replace(found, eviction=None)
        assert silent.refusals(["sessions"]) == []
        (unknown,) = silent.warnings(["sessions"], connections=10)
        assert "does not tell its maxmemory-policy" in unknown
        (clients,) = found.warnings(["cache"], connections=10**6)
        assert "maxclients" in clients
    with EmbeddedValkey(maxmemory="64mb") as server:
        found = await report(connect(server.url))
        assert "nothing is cached any more" in found.warnings(["cache"], connections=1)[0]
        assert found.warnings(["sessions"], connections=1) == []
        assert found.refusals(["sessions", "locks"]) == []
    with EmbeddedValkey(maxmemory_policy="allkeys-lru") as server:  # and no end of memory
        assert (await report(connect(server.url))).refusals(["sessions"]) == []


async def test_who_may_not_look_is_told_so(connect: Connect) -> None:
    with EmbeddedValkey(requirepass="x") as server:
        admin = connect(server.url)
        await admin.execute_command("ACL", "SETUSER", "app", "on", ">p", "~*", "+@all", "-info")
        with pytest.raises(RedisError):
            await report(connect(f"redis://app:p@{server.host}:{server.port}/0"))
