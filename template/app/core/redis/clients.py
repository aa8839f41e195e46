"""Redis clients: one per purpose and process, whatever the topology.

redis-py's defaults are made for scripts: ten retries of five seconds turn a frozen server into a
minute of waiting for one GET, a wrong password is tried eleven times, and the pool is unbounded.
Here every wait is short and bounded, nothing is retried behind the caller's back (a retried command
may run twice), and a busy pool makes callers queue in order.
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
    FairCheckout,
    FairPool,
    FairSentinelPool,
    FairSlots,
    Learned,
    PlainConnection,
    SentinelConnection,
    SentinelTlsConnection,
    TlsConnection,
)
from app.core.redis.urls import RedisAddress, Topology, parse_url

RedisClient = Redis | RedisCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What one client may cost: times in seconds."""

    name: str
    """Shown by `CLIENT LIST`, in errors and in metrics: say the service and the purpose."""
    pool_size: int = 32
    """The most connections this client opens (in a cluster: commands under way at once)."""
    pool_timeout: float = 0.2
    """The longest wait for a connection to come free."""
    timeout: float = 0.2
    """The longest wait for one reply."""
    connect_timeout: float = 0.2
    """The longest wait for a connection to be made."""
    denials_expected: bool = False
    """What the server denies is no fault of the service: the client acts for those who ask it."""


def create_client(url: str, options: ClientOptions) -> RedisClient:
    """Make a client for the topology that the URL names; connects on first use.

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


def create_standalone_client(url: str, options: ClientOptions) -> Redis:
    """`create_client` for what needs one server and no other topology.

    Raises:
        ValueError: the URL is malformed, or names sentinels or a cluster.
    """
    address = parse_url(url)
    if address.topology is not Topology.STANDALONE:
        raise ValueError("this needs a single server: redis:// or rediss://")
    return _standalone(address, options)


def _standalone(address: RedisAddress, options: ClientOptions) -> Redis:
    host, port = address.nodes[0]
    pool = FairPool(
        slots=_slots(options),
        connection_class=TlsConnection if address.tls else PlainConnection,
        host=host,
        port=port,
        db=address.database,
        learned=_learned(options),
        **_login(address),
        **_connection(address, options),
    )
    return Redis.from_pool(pool)


def _sentinel(address: RedisAddress, options: ClientOptions) -> Redis:
    connection = _connection(address, options)
    sentinels = Sentinel(
        address.nodes,
        sentinel_kwargs={
            **connection,
            "username": address.options.get("sentinel_username"),
            "password": address.options.get("sentinel_password"),
            "ssl": address.tls,
        },
    )
    pool = _OwningSentinelPool(
        service_name=address.service,
        sentinel_manager=sentinels,
        slots=_slots(options),
        connection_class=SentinelTlsConnection if address.tls else SentinelConnection,
        db=address.database,
        learned=_learned(options),
        **_login(address),
        **connection,
    )
    return Redis.from_pool(pool)


def _cluster(address: RedisAddress, options: ClientOptions) -> RedisCluster:
    return FairCluster(
        slots=_slots(options),
        startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],
        connection_class=TlsConnection if address.tls else PlainConnection,
        learned=_learned(options),
        ssl=address.tls,
        **_login(address),
        **_connection(address, options),
    )


def _slots(options: ClientOptions) -> FairSlots:
    return FairSlots(name=options.name, size=options.pool_size, timeout=options.pool_timeout)


def _learned(options: ClientOptions) -> Learned:
    expected = ["NOPERM"] if options.denials_expected else []
    return Learned(options.name, Refusals(options.name, expected=expected))


def refusals_of(client: RedisClient) -> Refusals:
    """What the server has refused to a client that `create_client` made.

    Raises:
        TypeError: another client.
    """
    return _learned_by(client).refusals


def on_connect(
    client: RedisClient, met: Callable[[AbstractConnection], Awaitable[None]] | None
) -> None:
    """Have `met` look at each new connection of a client, before anything else is sent.

    Raises:
        TypeError: the client was not made by `create_client`.
    """
    _learned_by(client).met = met


def _learned_by(client: RedisClient) -> Learned:
    pool = client if isinstance(client, RedisCluster) else client.connection_pool
    if not isinstance(pool, FairCluster | FairCheckout) or pool.learned is None:
        raise TypeError("only clients of create_client tell what they know of their servers")
    return pool.learned


async def check_client(client: RedisClient) -> None:
    """For the health page, of a client for any commands: it is answered, and refused nothing.

    Raises:
        Refused: something was refused within the last seconds.
        RedisError: there was no answer.
    """
    await client.ping()
    refusals_of(client).check()


def _login(address: RedisAddress) -> dict[str, Any]:
    return {"username": address.username, "password": address.password}


def _connection(address: RedisAddress, options: ClientOptions) -> dict[str, Any]:
    tls = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    return {
        **tls,
        "driver_info": None,
        # Some proxies have no HELLO, and nothing here needs RESP3: replies look the same.
        "protocol": 2,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        # redis-py 8.1 hands out connections that the server has closed when these are on (#4252),
        # and they cost a failing round trip per connection on every open-source server.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


class _OwningSentinelPool(FairSentinelPool):
    """Closes its connections to the sentinels too, which redis-py leaves open."""

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


def pool_size(client: RedisClient) -> int:
    """Return how many commands the client can have under way at once (`ClientOptions`)."""
    if isinstance(client, FairCluster):
        return client.pool_size
    assert isinstance(client, Redis)
    return int(client.connection_pool.max_connections)


def get_redis(connection: HTTPConnection) -> RedisClient:
    """Return the client for commands of the service's own, the same for every request."""
    client: RedisClient = connection.app.state.redis
    return client


RedisDependency = Annotated[RedisClient, Depends(get_redis)]
"""For a route: `async def visits(redis: RedisDependency) -> int: ...`."""
