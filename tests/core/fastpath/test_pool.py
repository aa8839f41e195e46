"""A pool hands connections out, and takes them back, as redis-py's own does."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.auth.token import SimpleToken
from redis.observability.config import OTelConfig
from redis.observability.providers import get_observability_instance

from app.core.fastpath.redis import RawConnections
from app.core.redis import ClientOptions
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE, until
from tests.support.clients import standalone_client

OPTIONS = ClientOptions(
    name="test", pool_size=2, timeout=PATIENCE, connect_timeout=PATIENCE, pool_timeout=PATIENCE
)
Harm = Callable[[Redis, Any], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def client(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    client = standalone_client(server.url, OPTIONS)
    await client.set("key", "value")
    yield client
    await client.aclose()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What redis-py's own pool is asked for."""
    calls: list[str] = []

    def count(name: str) -> None:
        method = getattr(ConnectionPool, name)

        async def counted(self: ConnectionPool, *args: Any) -> Any:
            calls.append(name)
            return await method(self, *args)

        monkeypatch.setattr(ConnectionPool, name, counted)

    count("get_connection")
    count("release")
    return calls


async def test_redis_py_is_not_asked_where_there_is_nothing_to_look_at(
    client: Redis, asked: list[str]
) -> None:
    for _ in range(5):
        assert await client.get("key") == b"value"
    assert asked == []


async def test_it_is_where_its_metrics_are_on(client: Redis, asked: list[str]) -> None:
    instance = get_observability_instance()
    instance.init(OTelConfig(enabled_telemetry=[]))
    try:
        await client.get("key")
    finally:
        instance.shutdown()
        instance._provider_manager = None
    assert asked == ["get_connection", "release"]


async def test_a_new_token_is_sent_when_a_connection_comes_back(client: Redis) -> None:
    await client.acl_setuser("rotated", enabled=True, passwords=["+new"], commands=["+@all"])
    connection: Any = await client.connection_pool.get_connection()
    connection.set_re_auth_token(SimpleToken("new", 9e15, 0, {"oid": "rotated"}))
    await client.connection_pool.release(connection)
    assert await client.acl_whoami() == "rotated"


async def leave_a_reply(client: Redis, connection: Any) -> None:
    await connection.send_command("ECHO", "of another")
    await until(lambda: bool(connection._reader._buffer))


async def hang_up(client: Redis, connection: Any) -> None:
    await client.client_kill_filter(_id=str(await number_of(connection)), skipme=False)
    await until(lambda: connection._reader.at_eof())


async def mark(client: Redis, connection: Any) -> None:
    connection.mark_for_reconnect()


async def number_of(connection: Any) -> int:
    await connection.send_command("CLIENT", "ID")
    return int(await connection.read_response())


async def harmed(client: Redis, harm: Harm) -> None:
    """Leave a harmed connection as the next that the pool hands out."""
    pool = client.connection_pool
    first, connection = await pool.get_connection(), await pool.get_connection()
    await pool.release(first)
    await harm(client, connection)
    await pool.release(connection)


@pytest.mark.parametrize("harm", [leave_a_reply, hang_up, mark])
async def test_a_connection_that_is_not_as_it_should_be_is_made_anew(
    client: Redis, harm: Harm
) -> None:
    made = (await client.info("stats"))["total_connections_received"]
    await harmed(client, harm)
    assert await client.get("key") == b"value"
    assert (await client.info("stats"))["total_connections_received"] == made + 2


async def test_control_handed_out_unseen_it_has_the_reply_of_another(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawConnections, "is_ready", lambda *_: True)
    await harmed(client, leave_a_reply)
    assert await client.get("key") == b"of another"
