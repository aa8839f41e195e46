"""Commands and scripts that are waiting at the same moment share one round trip.

What `BatchReader` does for reads, for everything else.
"""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice
from time import monotonic
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoScriptError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis.batching import Batch, Batcher, Deadline
from app.core.redis.clients import RedisClient
from app.core.redis.pool import PoolTimeout
from app.core.redis.script import ScriptCall

Command = tuple[Any, ...] | ScriptCall

_MAX_COMMANDS = 500
_MAX_BYTES = 1024 * 1024
"""Of values in one batch; as much can be sent within the timeout of a connection."""
_POOL_TIMEOUT = 30.0
"""Seconds to wait for a connection of the pool. Longer than the pool itself waits: those who hold
the connections have timeouts of their own, so one comes free."""


class CommandBatcher(Batcher[Command, Any]):
    """Sends commands, many callers to a round trip and one round trip at a time."""

    hopeless = (RedisTimeoutError, PoolTimeout)

    def __init__(self, client: RedisClient) -> None:
        """Use the connections of `client`, without its retries and callbacks."""
        super().__init__(client, size=_size, limit=1)

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return a reply to each command; one that is an error is returned, too, not raised.

        All commands of one call are in the same batch, in their order.

        Raises:
            RedisError: there are no replies. Some commands may have been carried out.
        """
        return await self._ask(commands)

    async def _share(self, batch: Batch[Command, Any]) -> list[list[Any]]:
        replies = iter(await self._exchange([one for commands, _ in batch for one in commands]))
        return [list(islice(replies, len(commands))) for commands, _ in batch]

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._send(
            [one.by_digest() if isinstance(one, ScriptCall) else one for one in commands]
        )
        unknown = {
            number: command.in_full()
            for number, (command, reply) in enumerate(zip(commands, replies, strict=True))
            if isinstance(command, ScriptCall) and isinstance(reply, NoScriptError)
        }
        if unknown:
            _put(replies, unknown, await self._send(list(unknown.values())))
        return replies

    async def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return a reply to each command; ask again where the pool had no connection in time."""
        end = monotonic() + _POOL_TIMEOUT
        replies = await self._replies(commands)
        while monotonic() < end:
            again = [n for n, reply in enumerate(replies) if isinstance(reply, PoolTimeout)]
            if not again:
                break
            _put(replies, again, await self._replies([commands[number] for number in again]))
        return replies

    async def _replies(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if isinstance(self._client, RedisCluster):
            return await self._to_cluster(self._client, commands)
        try:
            return await self._to_server(self._client, commands)
        except PoolTimeout as error:
            return [error] * len(commands)

    async def _to_server(self, client: Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        connection = await self._open(client.connection_pool)
        packed = connection.pack(commands)
        limit = connection.timeout * (1 + len(packed) // _MAX_BYTES)
        try:
            with Deadline(limit):
                return await connection.ask(packed, len(commands))
        except TimeoutError:
            raise RedisTimeoutError(f"no reply within {limit} s") from None

    async def _to_cluster(
        self, client: RedisCluster, commands: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Write once to each node; a node that is away fails only its own commands."""
        await client.initialize()
        replies: list[Any] = [None] * len(commands)
        by_node: dict[str, list[int]] = {}
        for number, command in enumerate(commands):
            try:
                node = client.get_node_from_key(_key(command))
            except SlotNotCoveredError as error:
                replies[number] = RedisConnectionError(str(error))
            else:
                by_node.setdefault(node.name if node else "", []).append(number)
        # Wait for all, even if one fails: what arrives late must not undo what is sent next.
        answers = await asyncio.gather(
            *(
                _to_node(client, [commands[number] for number in numbers])
                for numbers in by_node.values()
            )
        )
        for numbers, some in zip(by_node.values(), answers, strict=True):
            _put(replies, numbers, some)
        return replies


async def _to_node(client: RedisCluster, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    try:
        if len(commands) == 1:
            return [await client.execute_command(*commands[0])]
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))
    except (RedisError, RedisClusterException, OSError) as error:
        return [error] * len(commands)


def _put(replies: list[Any], numbers: Iterable[int], some: Iterable[Any]) -> None:
    """Put some replies where they belong among all."""
    for number, reply in zip(numbers, some, strict=True):
        replies[number] = reply


def _key(command: tuple[Any, ...]) -> Any:
    return command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]


def _size(commands: Sequence[Command]) -> float:
    """Return which part of a batch they fill."""
    values = sum(
        len(part)
        for one in commands
        for part in (one.arguments if isinstance(one, ScriptCall) else one)
        if isinstance(part, bytes)
    )
    return max(len(commands) / _MAX_COMMANDS, values / _MAX_BYTES)
