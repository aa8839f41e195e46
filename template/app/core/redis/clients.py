"""Redis clients: one per purpose and process, whatever the topology.

redis-py's defaults suit scripts: ten retries of five seconds turn a frozen server into a minute of
waiting for one GET, a wrong password is tried eleven times, and the pool is unbounded. Here every
wait is short and bounded, nothing is retried behind the caller's back (a retried command may run
twice), and callers of a busy pool queue in order.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from starlette.requests import HTTPConnection

from app.core.redis.cluster import FairCluster
from app.core.redis.outages import Refusals
from app.core.redis.pool import (
    ClientState,
    FairPool,
    FairSentinelPool,
    FairSlots,
    PlainConnection,
    SentinelConnection,
    SentinelTlsConnection,
    TlsConnection,
)
from app.core.redis.urls import RedisAddress, Topology, parse_url

RedisClient = Redis | RedisCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The limits of one client; times are in seconds."""

    name: str
    """Shown by `CLIENT LIST`, in errors and in metrics: say the service and the purpose."""
    pool_size: int = 32
    """Maximum number of connections (in a cluster: of commands under way at once)."""
    pool_timeout: float = 0.2
    """Maximum wait for a connection to come free."""
    timeout: float = 0.2
    """Maximum wait for one reply."""
    connect_timeout: float = 0.2
    """Maximum wait for a connection to be made."""
    denials_expected: bool = False
    """A denial (NOPERM) is no fault of the service: the client acts on behalf of its callers."""


def create_client(url: str, options: ClientOptions) -> RedisClient:
    """Make a client for the topology that the URL names. It connects on first use.

    Replies are bytes. Close it with `await client.aclose()`.

    Raises:
        ValueError: the URL is malformed.
    """
    address = parse_url(url)
    match address.topology:
        case Topology.STANDALONE:
            return _standalone(address, options)
        case Topology.SENTINEL:
            return _sentinel(address, options)
        case Topology.CLUSTER:
            return _cluster(address, options)


def _standalone(address: RedisAddress, options: ClientOptions) -> Redis:
    host, port = address.nodes[0]
    pool = FairPool(
        host=host,
        port=port,
        db=address.database,
        connection_class=TlsConnection if address.tls else PlainConnection,
        **_pool(address, options),
    )
    return Redis.from_pool(pool)


def _sentinel(address: RedisAddress, options: ClientOptions) -> Redis:
    sentinels = Sentinel(
        address.nodes,
        sentinel_kwargs={
            **_connection(address, options),
            "username": address.options.get("sentinel_username"),
            "password": address.options.get("sentinel_password"),
            "ssl": address.tls,
        },
    )
    pool = FairSentinelPool(
        service_name=address.service,
        sentinel_manager=sentinels,
        db=address.database,
        connection_class=SentinelTlsConnection if address.tls else SentinelConnection,
        **_pool(address, options),
    )
    return Redis.from_pool(pool)


def _cluster(address: RedisAddress, options: ClientOptions) -> RedisCluster:
    return FairCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],
        connection_class=TlsConnection if address.tls else PlainConnection,
        ssl=address.tls,
        **_pool(address, options),
    )


def _pool(address: RedisAddress, options: ClientOptions) -> dict[str, Any]:
    expected = ["NOPERM"] if options.denials_expected else []
    return {
        **_connection(address, options),
        "username": address.username,
        "password": address.password,
        "slots": FairSlots(name=options.name, size=options.pool_size, timeout=options.pool_timeout),
        "state": ClientState(options.name, Refusals(options.name, expected=expected)),
    }


def _connection(address: RedisAddress, options: ClientOptions) -> dict[str, Any]:
    tls = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    return {
        **tls,
        "driver_info": None,
        # Some proxies do not know HELLO, and nothing here needs RESP3: replies look the same.
        "protocol": 2,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        # With these on, redis-py 8.1 hands out connections that the server has closed (#4252), and
        # each connection to an open-source server costs a round trip that fails.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def refusals_of(client: RedisClient) -> Refusals:
    """Return what the server has refused to a client.

    Raises:
        TypeError: the client was not made by `create_client`.
    """
    return _state_of(client).refusals


def on_connect(
    client: RedisClient, callback: Callable[[AbstractConnection], Awaitable[None]] | None
) -> None:
    """Call `callback` with each new connection of a client, before anything else is sent on it.

    Raises:
        TypeError: the client was not made by `create_client`.
    """
    _state_of(client).on_connect = callback


def _state_of(client: RedisClient) -> ClientState:
    pool = client if isinstance(client, RedisCluster) else client.connection_pool
    if not isinstance(pool, FairCluster | FairPool) or pool.state is None:
        raise TypeError("the client was not made by create_client")
    return pool.state


async def check_client(client: RedisClient) -> None:
    """Check, for the health page, that a client is answered and was refused nothing lately.

    Raises:
        Refused: a command was refused within the last 10 seconds.
        RedisError: the server did not answer.
    """
    await client.ping()
    refusals_of(client).check()


def pool_size(client: RedisClient) -> int:
    """Return how many commands the client can have under way at once (`ClientOptions`)."""
    if isinstance(client, FairCluster):
        return client.pool_size
    assert isinstance(client, Redis)
    return int(client.connection_pool.max_connections)


def get_redis(connection: HTTPConnection) -> RedisClient:
    """Return the client for your own commands; all requests share it."""
    client: RedisClient = connection.app.state.redis
    return client


RedisDependency = Annotated[RedisClient, Depends(get_redis)]
"""For a route: `async def visits(redis: RedisDependency) -> int: ...`."""
