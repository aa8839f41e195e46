"""Denials that only Redis knows of are told once, by one of the processes, in every topology."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import pytest
import structlog
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.core.access import DEVELOPMENT_SECRET, Logins, Policy
from app.core.access.acl import acl_users
from app.core.access.audit import Audit
from app.core.access.denials import is_denial
from app.core.redis import ClientOptions, RedisClient, create_client, with_login
from devservers.valkey import EmbeddedValkey
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey

LOGINS = Logins("orders", [DEVELOPMENT_SECRET])
Connect = Callable[[str, str], RedisClient]


def put_under_rules(server: EmbeddedValkey, policy: Policy) -> None:
    with Redis(port=server.port) as admin:
        admin.execute_command("ACL", "LOG", "RESET")
        for user, rules in acl_users(policy, LOGINS).items():
            admin.execute_command("ACL", "SETUSER", user, "reset", *rules)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        def connect(url: str, role: str) -> RedisClient:
            options = ClientOptions(
                name=role, timeout=5, connect_timeout=5, pool_timeout=5, pool_size=4
            )
            login = with_login(url, LOGINS.user(role), LOGINS.password(role))
            client = create_client(login, options)
            stack.push_async_callback(client.aclose)
            return client

        yield connect


def audit(client: RedisClient) -> Audit:
    users = {LOGINS.user(role): role for role in ("reader", "writer")}
    return Audit(client, users=users, prefix="orders:access", interval=0.02)


async def told(*audits: Audit) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as lines:
        await asyncio.gather(*(audit.look() for audit in audits))
    return [dict(line) for line in lines if line["event"] == "access.denied_by_redis"]


async def denied(client: RedisClient, *command: Any) -> None:
    with pytest.raises(ResponseError) as error:
        await client.execute_command(*command)
    assert is_denial(error.value)


async def test_each_denial_is_told_once_whoever_looks(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    audits = [audit(connect(server.url, "audit")) for _ in range(3)]
    reader, writer = connect(server.url, "reader"), connect(server.url, "writer")
    assert await told(*audits) == []

    for _ in range(3):
        await denied(reader, "SET", "orders:reports", "x")
    await denied(writer, "EVAL", "return redis.call('GET', 'other')", 0)
    lines = await told(*audits)
    facts = {
        (line["role"], line["reason"], line["context"], line["target"]): line["count"]
        for line in lines
    }
    assert len(facts) == len(lines) == 2
    assert facts["reader", "command", "toplevel", "set"] == 3
    assert facts["writer", "key", "lua", "other"] == 1

    assert await told(*audits) == []
    await denied(reader, "SET", "orders:reports", "x")
    assert [line["count"] for line in await told(*audits)] == [1]


@pytest.mark.slow
async def test_denials_of_other_services_are_not_ours_and_wrong_passwords_are(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    for user in ("billing-reader", "orders-reader"):
        guess = Redis(port=server.port, username=user, password="guessed")
        with guess as redis, pytest.raises(RedisError):
            redis.ping()
    lines = await told(audit(connect(server.url, "audit")))
    assert [(line["role"], line["reason"]) for line in lines] == [("reader", "auth")]


@pytest.mark.slow
async def test_in_a_cluster_every_node_is_asked(policy: Policy, connect: Connect) -> None:
    with EmbeddedCluster() as cluster:
        for node in cluster.nodes:
            put_under_rules(node, policy)
        reader = connect(cluster.url, "reader")
        keys = [f"orders:reports:{number}" for number in range(20)]
        for key in keys:
            assert await reader.get(key) is None
            await denied(reader, "SET", key, "x")
        looking = audit(connect(cluster.url, "audit"))
        lines = await told(looking)
        assert len(lines) == 3
        assert sum(line["count"] for line in lines) == len(keys)
        assert await told(looking) == []


@pytest.mark.slow
async def test_behind_sentinels_every_server_has_the_rules(
    policy: Policy, connect: Connect
) -> None:
    with ReplicatedValkey() as servers:
        for server in servers.servers:
            put_under_rules(server, policy)
        reader, looking = connect(servers.url, "reader"), audit(connect(servers.url, "audit"))
        await denied(reader, "SET", "orders:reports", "x")
        assert len(await told(looking)) == 1
        old = servers.kill_primary()
        servers.wait_for_new_primary(old)
        end = monotonic() + 20
        while not await _answers(reader):
            assert monotonic() < end
            await asyncio.sleep(0.1)
        await denied(reader, "SET", "orders:reports", "y")
        assert len(await told(looking)) == 1


async def _answers(client: RedisClient) -> bool:
    try:
        await client.get("orders:reports")
    except RedisError:
        return False
    return True


async def test_a_server_that_is_away_is_said_once_and_asked_again(
    policy: Policy, connect: Connect
) -> None:
    with EmbeddedValkey() as server:
        looking = audit(connect(server.url, "audit"))
        with structlog.testing.capture_logs() as lines:
            looking.start()  # nobody has given it rules yet
            await asyncio.sleep(0.3)
            put_under_rules(server, policy)
            await denied(connect(server.url, "reader"), "SET", "orders:reports", "x")
            end = monotonic() + 10
            while not any(line["event"] == "access.denied_by_redis" for line in lines):
                assert monotonic() < end
                await asyncio.sleep(0.02)
            await looking.stop()
    events = [line["event"] for line in lines]
    assert events.count("access.audit_unavailable") == 1


@pytest.mark.slow
async def test_it_stops_at_whatever_moment(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    """Also while it connects, where a cancellation can get lost."""
    put_under_rules(server, policy)
    for turns in range(40):
        looking = audit(connect(server.url, "audit"))
        looking.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await looking.stop()
