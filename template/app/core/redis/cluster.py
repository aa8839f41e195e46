"""A cluster client that queues its callers in order, and copes with changes of the cluster.

With redis-py's retries off, it would have three faults: a pipeline that meets a dead node never
looks for its successor; when no node answers, each caller tries all nodes one after the other; and
two errors are no `RedisError`, of a cluster that cannot be reached, and of a connection that was
reset while it was idle (with uvloop, a RuntimeError).
"""

import asyncio
from typing import Any, Self

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.cluster import PRIMARY
from redis.exceptions import (
    ClusterDownError,
    ClusterError,
    RedisClusterException,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis.pool import ClientState, FairSlots, PlainConnection, TlsConnection
from app.core.tasks import Tasks

_PIPELINES = 4
"""Pipelines that may be under way at once."""
_DISCOVERY_GRACE = 5.0
"""Seconds that an attempt to read the map of the slots has to end, when the client is closed."""
_LOST = (RedisConnectionError, RedisTimeoutError, ClusterDownError)


class FairCluster(RedisCluster):
    """A cluster client with at most `pool_size` commands under way, granted in order.

    redis-py raises at once when the pool of a node is exhausted; here callers wait in line.
    Pipelines have a few slots of their own, because their redirected commands need one more.
    """

    # How often a command is sent: enough to follow redirections, or to wait a tenth of a second.
    RedisClusterRequestTTL = 6

    def __init__(
        self,
        *,
        slots: FairSlots,
        connection_class: type[PlainConnection | TlsConnection],
        state: ClientState,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            max_connections=slots.size + _PIPELINES,
            # Otherwise every fifth slot that moves closes all connections, even those in use.
            reinitialize_steps=0,
            **kwargs,
        )
        self.state = state
        # redis-py's cluster client takes no connection class, but its nodes do.
        self.connection_kwargs.update(connection_class=connection_class, state=state)
        for node in self.startup_nodes:
            node.connection_class = connection_class
            node.connection_kwargs["state"] = state
        self._slots = slots
        self._pipelines = FairSlots(
            name=f"{slots.name}, pipelines", size=_PIPELINES, timeout=slots.timeout
        )
        self._discovery: asyncio.Task[object] | None = None
        self._tasks = Tasks()
        self._newcomers: dict[str, ClusterNode] = {}

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> Any:
        """Return the node of an address or a name; by name, for keys that move to it (ASK)."""
        node = super().get_node(host, port, node_name)
        if node_name is None:
            return node
        if node is None:  # a node without slots so far
            node = self._newcomers.get(node_name)
        if node is None:
            host, _, digits = node_name.rpartition(":")
            node = ClusterNode(host, int(digits), PRIMARY, **self.connection_kwargs)
            self._newcomers[node_name] = node
        return _AskedNode(node)

    @property
    def pool_size(self) -> int:
        """How many commands can be under way at once."""
        return self._slots.size

    @property
    def is_exhausted(self) -> bool:
        """Whether the next pipeline has to wait."""
        return self._pipelines.is_exhausted

    @property
    def is_discovering(self) -> bool:
        """Whether commands wait for the map of the slots."""
        return bool(self._initialize)

    def rediscover(self) -> None:
        """Read the map of the slots again before the next command: a node seems to be gone."""
        self._initialize = True

    async def initialize(self, *args: Any, **kwargs: Any) -> Self:
        """Read the map of the slots, unless it is known; concurrent callers share one attempt.

        Raises:
            redis.exceptions.ConnectionError: no node answers, or some slots are on none.
        """
        if not self._initialize:
            return self
        if self._discovery is None or self._discovery.done():
            self._discovery = self._tasks.start(super().initialize(*args, **kwargs))
            self._discovery.add_done_callback(_retrieve)
        try:
            # A caller that is cancelled does not end the attempt that others wait for.
            await asyncio.shield(self._discovery)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        await self._slots.acquire()
        try:
            return await super().execute_command(*args, **kwargs)
        except (SlotNotCoveredError, RuntimeError) as error:
            raise RedisConnectionError(str(error)) from error
        except ClusterError as error:
            if type(error) is not ClusterError:
                raise
            # redis-py was redirected to and fro until it gave up: a slot is being moved, and the
            # keys of the command are on both nodes. The nodes and all other slots are fine.
            message = "the keys are being moved to another node, and are on both of them"
            raise TryAgainError(message, status_code="TRYAGAIN") from error
        finally:
            self._slots.release()

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        if transaction or shard_hint:
            return super().pipeline(transaction, shard_hint)
        return _FairPipeline(self, self._pipelines)  # type: ignore[abstract]  # so is its base

    async def aclose(self) -> None:
        await self._tasks.stop(grace=_DISCOVERY_GRACE)  # or it would connect after the end
        await super().aclose()
        for node in self._newcomers.values():
            await node.disconnect()


class _AskedNode:
    """Sends ASKING and the command on one connection; redis-py takes two, which has no effect."""

    def __init__(self, node: ClusterNode) -> None:
        self._node = node

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        if args == ("ASKING",):  # is sent with the next command
            return None
        node, connection = self._node, self._node.acquire_connection()
        try:
            commands = connection.pack_commands([("ASKING",), args])
            await connection.send_packed_command(commands)
            try:
                await connection.read_response()
            except BaseException:  # the second reply must not be taken for a later command's
                await connection.disconnect(nowait=True)
                raise
            kwargs.pop("asking", None)
            return await node.parse_response(connection, args[0], **kwargs)
        finally:
            node.release(connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


class _FairPipeline(ClusterPipeline):
    def __init__(self, cluster: FairCluster, slots: FairSlots) -> None:
        super().__init__(cluster)
        self._cluster = cluster
        self._slots = slots

    async def execute(
        self, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        await self._slots.acquire()
        try:
            replies: list[Any] = await super().execute(raise_on_error, allow_redirections)
        except (SlotNotCoveredError, RuntimeError) as error:
            self._cluster.rediscover()
            raise RedisConnectionError(str(error)) from error
        except _LOST:
            self._cluster.rediscover()
            raise
        finally:
            self._slots.release()
        if any(isinstance(reply, _LOST) for reply in replies):
            self._cluster.rediscover()
        return replies


def _retrieve(discovery: asyncio.Task[object]) -> None:
    # Otherwise asyncio reports the error when all who waited for it have gone.
    if not discovery.cancelled():
        discovery.exception()
