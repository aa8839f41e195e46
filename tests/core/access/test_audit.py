"""Denials that only Redis knows of are told once, by one of the processes, in every topology."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.core.access import DEVELOPMENT_SECRET, Policy, RedisCredentials
from app.core.access.acl import acl_users
from app.core.access.audit import Audit
from app.core.access.denials import is_denial
from app.core.redis import ClientOptions, RedisClient, create_client, with_login
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey

CREDENTIALS = RedisCredentials("orders", [DEVELOPMENT_SECRET])
Connect = Callable[[str, str], RedisClient]


def put_under_rules(server: EmbeddedValkey, policy: Policy) -> None:
    with Redis(port=server.port) as admin:
        admin.execute_command("ACL", "LOG", "RESET")
        for user, rules in acl_users(policy, CREDENTIALS).items():
            admin.execute_command("ACL", "SETUSER", user, "reset", *rules)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        def connect(url: str, role: str) -> RedisClient:
            options = ClientOptions(
                name=role, timeout=HANG, connect_timeout=HANG, pool_timeout=HANG, pool_size=4
            )
            login = with_login(url, CREDENTIALS.user(role), CREDENTIALS.password(role))
            client = create_client(login, options)
            stack.push_async_callback(client.aclose)
            return client

        yield connect


def audit(client: RedisClient) -> Audit:
    users = {CREDENTIALS.user(role): role for role in ("reader", "writer")}
    return Audit(client, users=users, prefix="orders:access", interval=0.02)


async def lines_of(*audits: Audit) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as lines:
        await asyncio.gather(*(audit.poll() for audit in audits))
    return [dict(line) for line in lines]


async def told(*audits: Audit) -> list[dict[str, Any]]:
    lines = await lines_of(*audits)
    return [line for line in lines if line["event"] == "access.denied_by_redis"]


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


def knock(server: EmbeddedValkey, *names: str) -> None:
    """Try to log in under these names, once each."""
    for name in names:
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(f"AUTH {name} guessed\r\n".encode())
            assert connection.recv(100).startswith(b"-WRONGPASS")


async def test_strangers_hide_nothing_and_have_a_line_together(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    looking, reader = audit(connect(server.url, "audit")), connect(server.url, "reader")
    await lines_of(looking)
    for key in ("orders:session:a", "orders:session:b"):
        await denied(reader, "GET", key)
    knock(server, *(f"stranger-{number}" for number in range(12)))
    lines = await lines_of(looking)
    targets = [line["target"] for line in lines if line["event"] == "access.denied_by_redis"]
    assert sorted(targets) == ["orders:session:a", "orders:session:b"]
    [strangers] = [line for line in lines if line["event"] == "access.unknown_users"]
    assert (strangers["count"], strangers["names"]) == (12, 12)
    assert strangers["addresses"] == ["127.0.0.1"]
    assert await lines_of(looking) == []


async def lost(*audits: Audit) -> list[Any]:
    lines = await lines_of(*audits)
    return [line["count"] for line in lines if line["event"] == "access.denials_lost"]


async def test_what_is_pushed_out_of_the_log_is_counted(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    audits = [audit(connect(server.url, "audit")) for _ in range(2)]
    reader = connect(server.url, "reader")
    with Redis(port=server.port) as admin:
        admin.config_set("acllog-max-len", 5)
        try:
            assert await lost(*audits) == []
            for number in range(5):
                await denied(reader, "GET", f"other:{number}")
            assert await lost(*audits) == []
            await denied(reader, "GET", "orders:session:a")
            knock(server, *(f"stranger-{number}" for number in range(7)))
            assert await lost(*audits) == [3]
            assert await lost(*audits) == []
        finally:
            admin.config_set("acllog-max-len", 128)


async def test_who_erases_the_log_does_not_erase_the_count(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    login = connect(server.url, "audit")
    looking, reader = audit(login), connect(server.url, "reader")
    await denied(reader, "GET", "orders:session:seen")
    await lines_of(looking)
    for _ in range(3):
        await denied(reader, "GET", "orders:session:hidden")
    await login.execute_command("ACL", "LOG", "RESET")
    assert await lost(looking) == [3]
    await denied(reader, "GET", "orders:session:hidden")
    [line] = await told(looking)
    assert (line["count"], line["target"]) == (1, "orders:session:hidden")


async def test_a_server_that_starts_anew_counts_anew(policy: Policy, connect: Connect) -> None:
    with EmbeddedValkey(save="", appendonly="yes") as server:
        put_under_rules(server, policy)
        looking = audit(connect(server.url, "audit"))
        for _ in range(4):
            await denied(connect(server.url, "reader"), "GET", "orders:session:a")
        await lines_of(looking)
        server.kill()
        server.restart()
        put_under_rules(server, policy)
        looking = audit(connect(server.url, "audit"))
        await denied(connect(server.url, "reader"), "GET", "orders:session:a")
        lines = await lines_of(looking)
        assert [line["event"] for line in lines] == ["access.denied_by_redis"]


async def test_without_info_nothing_is_counted_and_all_else_is_told(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    with Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", CREDENTIALS.user("audit"), "-info")
        looking, reader = audit(connect(server.url, "audit")), connect(server.url, "reader")
        [line] = [line for line in await lines_of(looking) if line["event"].startswith("access.")]
        assert (line["event"], line["missing"]) == ("access.audit_cannot_count", "+info")
        await denied(reader, "GET", "other")
        assert [line["target"] for line in await told(looking)] == ["other"]
        assert await lines_of(looking) == []


async def test_a_long_key_is_cut(server: EmbeddedValkey, policy: Policy, connect: Connect) -> None:
    put_under_rules(server, policy)
    looking = audit(connect(server.url, "audit"))
    await denied(connect(server.url, "reader"), "GET", "x" * 100_000)
    [line] = await told(looking)
    assert len(line["target"]) == 200
    with Redis(port=server.port) as admin:
        assert admin.memory_usage("orders:access:reported:server") < 2000


@pytest.mark.slow
async def test_denials_of_other_services_are_not_ours_and_wrong_passwords_are(
    server: EmbeddedValkey, policy: Policy, connect: Connect
) -> None:
    put_under_rules(server, policy)
    for user in ("billing-reader", "orders-reader"):
        guess = Redis(port=server.port, username=user, password="guessed")
        with guess as redis, pytest.raises(RedisError):
            redis.ping()
    lines = await lines_of(audit(connect(server.url, "audit")))
    denials = [line for line in lines if line["event"] == "access.denied_by_redis"]
    assert [(line["role"], line["reason"]) for line in denials] == [("reader", "auth")]
    assert [line["names"] for line in lines if line["event"] == "access.unknown_users"] == [1]


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
        await until(lambda: _answers(reader))
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
            await until(lambda: looking.error is not None)
            put_under_rules(server, policy)
            await denied(connect(server.url, "reader"), "SET", "orders:reports", "x")
            await until(lambda: any(line["event"] == "access.denied_by_redis" for line in lines))
            assert looking.error is None
            await looking.stop()
    events = [line["event"] for line in lines]
    assert events.count("access.audit_lost") == 1


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
        async with asyncio.timeout(HANG):
            await looking.stop()
