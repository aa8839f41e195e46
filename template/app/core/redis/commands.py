"""Commands and scripts that are waiting at the same moment share one round trip.

What reads do in `batching`, for everything else: commands that arrive while a batch is under way
form the next one. However many callers there are, they need one connection, so they never wait for
a pool, and a thousand of them cost a few round trips. A lone command is sent at once.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.implementations import current
from app.core.redis.batching import Deadline, fail_all
from app.core.redis.clients import RedisClient
from app.core.redis.pool import PoolTimeout
from app.core.redis.script import ScriptCall

Command = tuple[Any, ...] | ScriptCall

_MAX_COMMANDS = 500
_MAX_BYTES = 1024 * 1024
"""Of the values in one batch, and what can be sent in a connection's timeout."""
_POOL_PATIENCE = 30.0
"""Seconds. That others hold every connection for a while is no reason to give up: each of their
commands has a timeout."""
# Whoever queued behind such a batch has waited long enough.
_HOPELESS = (RedisTimeoutError, PoolTimeout)


class CommandBatcher:
    """Sends commands, many callers to a round trip and one round trip at a time."""

    def __init__(self, client: RedisClient) -> None:
        """Use the connections of `client`, without its retries and callbacks."""
        self._client = client
        self._connections = current().connections
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._busy = False
        self._sender: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return a reply for each command; one that is an error is returned, too, not raised.

        All commands of one call are in the same batch, in their order.

        Raises:
            RedisError: there are no replies. Some commands may have been carried out.
        """
        if self._busy:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((commands, future))
            replies: list[Any] = await future
            return replies
        self._busy = True
        try:
            return await self._exchange(commands)
        except _HOPELESS as error:
            self._fail_waiting(error)
            raise
        finally:
            if self._waiting:
                self._sender = asyncio.get_running_loop().create_task(self._send_batches())
            else:
                self._busy = False

    async def _send_batches(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._take_batch())
        finally:
            self._busy = False
            if self._waiting:  # the task itself was cancelled, as at shutdown
                self._fail_waiting(RedisError("the sender of commands was stopped"))

    def _take_batch(self) -> list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]:
        count = size = 0
        for number, (commands, _) in enumerate(self._waiting):
            count += len(commands)
            size += _size(commands)
            if number and (count > _MAX_COMMANDS or size > _MAX_BYTES):
                batch, self._waiting = self._waiting[:number], self._waiting[number:]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    async def _answer(
        self, batch: Sequence[tuple[Sequence[Command], asyncio.Future[list[Any]]]]
    ) -> None:
        try:
            replies = await self._exchange([one for commands, _ in batch for one in commands])
        except BaseException as error:
            fail_all((future for _, future in batch), error)
            if isinstance(error, _HOPELESS):
                self._fail_waiting(error)
            elif not isinstance(error, RedisError):
                raise
            return
        start = 0
        for commands, future in batch:
            end = start + len(commands)
            if not future.done():
                future.set_result(replies[start:end])
            start = end

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._patiently(
            [one.by_digest() if isinstance(one, ScriptCall) else one for one in commands]
        )
        unknown = {
            number: command.in_full()
            for number, (command, reply) in enumerate(zip(commands, replies, strict=True))
            if isinstance(command, ScriptCall) and isinstance(reply, NoScriptError)
        }
        if unknown:
            told = await self._patiently(list(unknown.values()))
            for number, reply in zip(unknown, told, strict=True):
                replies[number] = reply
        return replies

    async def _patiently(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Replies, also if a connection has to be waited for longer than the pool thinks."""
        end = monotonic() + _POOL_PATIENCE
        replies = await self._replies(commands)
        while monotonic() < end:
            again = [n for n, reply in enumerate(replies) if isinstance(reply, PoolTimeout)]
            if not again:
                break
            told = await self._replies([commands[number] for number in again])
            for number, reply in zip(again, told, strict=True):
                replies[number] = reply
        return replies

    async def _replies(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if isinstance(self._client, RedisCluster):
            return await self._to_cluster(self._client, commands)
        try:
            return await self._to_server(self._client, commands)
        except PoolTimeout as error:
            return [error] * len(commands)

    async def _to_server(self, client: Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pool = client.connection_pool
        connection = await pool.get_connection()
        try:
            packed = connection.pack_commands(commands)
            limit = connection.socket_timeout * (1 + sum(map(len, packed)) // _MAX_BYTES)
            with Deadline(limit):
                await connection.send_packed_command(packed, check_health=False)
                return [await self._reply(connection) for _ in commands]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError(f"no reply within {limit} s") from None
            raise
        finally:
            await pool.release(connection)

    async def _reply(self, connection: AbstractConnection) -> Any:
        try:
            return await self._connections.reply(connection)
        except ResponseError as error:
            return error

    async def _to_cluster(
        self, client: RedisCluster, commands: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """One write per node; a node that is away fails its own commands only."""
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
        # All are waited for, also when one fails: no late reply may undo what follows.
        told = await asyncio.gather(
            *(
                _to_node(client, [commands[number] for number in numbers])
                for numbers in by_node.values()
            )
        )
        for numbers, some in zip(by_node.values(), told, strict=True):
            for number, reply in zip(numbers, some, strict=True):
                replies[number] = reply
        return replies

    def _fail_waiting(self, error: RedisError) -> None:
        waiting, self._waiting = self._waiting, []
        fail_all((future for _, future in waiting), error)


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


def _key(command: tuple[Any, ...]) -> Any:
    return command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]


def _size(commands: Sequence[Command]) -> int:
    return sum(
        len(part)
        for one in commands
        for part in (one.arguments if isinstance(one, ScriptCall) else one)
        if isinstance(part, bytes)
    )
