"""One pub/sub connection, kept alive while somebody waits.

Pub/sub loses messages without a word: a connection can be half open, and what is published while
it is being made again is gone. So silence is tested with PING, every connection starts afresh
rather than being repaired, and each confirmed subscription is reported as a reason to look again.
"""

import asyncio
import random
import time
from typing import Any, Protocol

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.locks.node import NodeError
from app.core.locks.store import PubSubFactory
from app.core.redis import OutageLog, is_refusal

_TICK = 1.0
"""Seconds between two PINGs: a silent connection is dropped after one without an answer."""
_SEND_TIMEOUT = 1.0
_IDLE_TICKS = 5
_REFUSED_PAUSE = 30.0
_PAUSE = 0.1
"""Seconds between attempts to connect, at random from half to one and a half of it."""


class ReleaseListener(Protocol):
    """Who listens to a subscriber."""

    def wants(self, channel: str) -> bool: ...

    def heard_release(self, source: int, channel: str, message: bytes) -> None: ...

    def heard_subscription(self, channel: str) -> None: ...


class Subscriber:
    """Connects when a channel is first wanted, and disconnects when none has been for a while.

    One task does all that is done with the connection. redis-py makes a broken one again from
    whichever call finds it broken, and two at once would read each other's replies.
    """

    def __init__(self, source: PubSubFactory, number: int, listener: ReleaseListener) -> None:
        self._source = source
        self._number = number
        self._listener = listener
        self._wanted: dict[str, int] = {}  # channel -> ticks for which nobody has waited for it
        self._sent: set[str] = set()
        self.confirmed: set[str] = set()
        self._reading: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._outage = OutageLog("locks.wakeups", server=number)

    def want(self, channel: str) -> None:
        """Subscribe to `channel` soon; `confirmed` tells when that has worked."""
        if self._closed:
            return  # whoever still waits is about to hear that the locks are closed
        self._wanted[channel] = 0
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif channel not in self._sent and self._reading and not self._reading.expired():
            self._reading.reschedule(0)  # stop reading, subscribe, read on

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._wanted:
            try:
                await self._connect_and_listen()
            except NodeError as error:
                self._outage.lost(error)
                self._wanted = {
                    channel: 0 for channel in self._wanted if self._listener.wants(channel)
                }
                # Who may not subscribe asks instead, as the log says at the start.
                pause = _REFUSED_PAUSE if is_refusal(error) else _PAUSE
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))

    async def _connect_and_listen(self) -> None:
        pubsub = await self._source()
        try:
            await self._listen(pubsub)
        finally:
            self._sent.clear()
            self.confirmed.clear()
            # Closing writes nothing; it hands the connection back to the pool, disconnected.
            await pubsub.aclose()

    async def _listen(self, pubsub: PubSub) -> None:
        next_tick = time.monotonic() + _TICK
        answered = True
        while self._wanted:
            await self._subscribe(pubsub)
            message = await self._read(pubsub, next_tick - time.monotonic())
            if message is not None:
                answered = True
                self._handle(message)
            if time.monotonic() >= next_tick:
                if not answered:
                    raise RedisConnectionError("the pub/sub connection has gone silent")
                answered = False
                next_tick = time.monotonic() + _TICK
                await self._tick(pubsub)

    async def _read(self, pubsub: PubSub, patience: float) -> dict[str, Any] | None:
        """The next message; None after `patience` seconds, or once another channel is wanted."""
        try:
            async with asyncio.timeout(patience) as self._reading:
                message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
                return message
        except TimeoutError:
            return None
        finally:
            self._reading = None

    async def _tick(self, pubsub: PubSub) -> None:
        for channel in self._wanted:
            self._wanted[channel] = (
                0 if self._listener.wants(channel) else self._wanted[channel] + 1
            )
        idle = [channel for channel, ticks in self._wanted.items() if ticks > _IDLE_TICKS]
        for channel in idle:
            del self._wanted[channel]
            self._sent.discard(channel)
            self.confirmed.discard(channel)
        async with asyncio.timeout(_SEND_TIMEOUT):
            if idle:
                await pubsub.unsubscribe(*idle)
            await pubsub.ping()

    async def _subscribe(self, pubsub: PubSub) -> None:
        missing = self._wanted.keys() - self._sent
        if missing:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await pubsub.subscribe(*missing)
            self._sent |= missing

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "message":
            channel = message["channel"].decode()
            self._listener.heard_release(self._number, channel, message["data"])
        elif message["type"] == "subscribe":
            channel = message["channel"].decode()
            self.confirmed.add(channel)
            self._outage.back()
            self._listener.heard_subscription(channel)
