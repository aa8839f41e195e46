"""Listening to what is published, over a connection that is replaced when it is lost.

Pub/sub promises nothing to a listener that is away: a connection can be half open, which looks like
silence, and what is published while it is made again is gone. So the server gets
a PING now and then, and the owner is told of each loss and of each subscription: it has missed what
was published between them.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextvars import Context
from math import inf
from typing import Any

import structlog
from redis.asyncio import RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.redis.clients import RedisClient
from app.core.redis.outages import OutageLog, is_refusal
from app.core.tasks import Tasks

log = structlog.get_logger(__name__)

_FIRST_PAUSE = 0.1
"""Seconds until a lost connection is made again, on average: processes that lost theirs together
spread out. It doubles with each attempt that fails."""
_LONGEST_PAUSE = 0.5
_RETRY_REFUSED_AFTER = 30.0
"""Seconds until another try, where the server does not allow it; people mend permissions."""
_SILENT_TICKS = 3
"""PINGs without an answer after which a connection counts as lost."""


class PubSubConnection:
    """Hears some channels, over one connection at a time, while any of them is subscribed to.

    One task does all that is done with the connection. redis-py makes a broken one again from
    whichever call finds it broken, and two at once would read each other's replies.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        on_message: Callable[[str, bytes], None],
        on_subscribe: Callable[[str], None],
        on_disconnect: Callable[[], None] = lambda: None,
        outage_log: OutageLog | None = None,
        timeout: float = 3.0,
        idle_timeout: float = 5.0,
    ) -> None:
        """Connect with the first call of `subscribe`.

        Args:
            client: its pool gives a connection, which counts against its size.
            on_message: is called with a channel and what was published to it.
            on_subscribe: is called with a channel each time that its subscription is in place:
                what was published before may have gone unheard.
            on_disconnect: is called each time that a connection ends, or could not be made.
            outage_log: logs when nothing can be heard, and when that is over.
            timeout: seconds of silence after which a connection is replaced.
            idle_timeout: seconds for which a channel is still heard after `unsubscribe`, so that
                subscribing anew costs nothing. The last one takes the connection with it.
        """
        self._client = client
        self._on_message = on_message
        self._on_subscribe = on_subscribe
        self._on_disconnect = on_disconnect
        self._outage_log = outage_log or OutageLog("redis.pubsub")
        self._tick = timeout / _SILENT_TICKS
        self._idle_timeout = idle_timeout
        self._channels: dict[str, float] = {}
        """Each with the moment (monotonic) at which it may be dropped."""
        self._unsent: set[str] = set()
        self._confirmed: set[str] = set()
        self._reading: asyncio.Timeout | None = None
        self._tasks = Tasks(Context())  # it outlives the request that happens to subscribe first
        self._pause = _FIRST_PAUSE
        self._is_closed = False
        self.refusal: str | None = None
        """Why the server does not let this user listen."""

    def subscribe(self, *channels: str) -> None:
        """Hear these channels soon, unless the connection is closed; `on_subscribe` tells when."""
        if self._is_closed or not channels:
            return
        self._unsent.update(channel for channel in channels if channel not in self._channels)
        self._channels.update(dict.fromkeys(channels, inf))
        if not self._tasks:
            self._tasks.start(self._run())
        elif self._unsent and self._reading is not None and not self._reading.expired():
            self._reading.reschedule(0)  # stop reading, subscribe, read on

    def unsubscribe(self, channel: str) -> None:
        """Stop hearing a channel, unless it is subscribed to again within `idle_timeout`."""
        if channel in self._channels:
            self._channels[channel] = time.monotonic() + self._idle_timeout

    def hears(self, channel: str) -> bool:
        """Return whether the subscription to a channel is in place."""
        return channel in self._confirmed

    async def close(self) -> None:
        """Disconnect for good."""
        self._is_closed = True
        self._channels.clear()
        await self._tasks.stop()

    async def _run(self) -> None:
        while self._channels:
            try:
                self._unsent = set(self._channels)
                async with await open_pubsub(self._client) as pubsub:
                    await self._listen(pubsub)
            except (RedisError, OSError) as error:
                self.refusal = str(error) if is_refusal(error) else None
                self._outage_log.lost(error)
            except Exception:  # without this task nobody would hear anything any more
                log.exception("redis.pubsub_failed", channels=sorted(self._channels))
            else:
                continue  # nobody listens, unless somebody has begun to at this moment
            finally:
                self._confirmed.clear()
                self._on_disconnect()
            pause = _RETRY_REFUSED_AFTER if self.refusal else self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            self._drop_idle()

    async def _listen(self, pubsub: PubSub) -> None:
        task = asyncio.current_task()
        assert task is not None
        next_tick, silent_ticks = time.monotonic() + self._tick, 0
        while self._channels:
            if self._unsent:
                await self._subscribe(pubsub)
            message = await self._read(pubsub, next_tick - time.monotonic())
            if task.cancelling():  # which redis-py took for its own timeout
                raise asyncio.CancelledError
            if message is not None:
                silent_ticks = 0
                self._handle(message)
            if time.monotonic() >= next_tick:
                silent_ticks += 1
                if silent_ticks > _SILENT_TICKS:
                    raise RedisConnectionError("the server gives no sign of life")
                await self._ping(pubsub)
                next_tick = time.monotonic() + self._tick

    async def _subscribe(self, pubsub: PubSub) -> None:
        channels, self._unsent = self._unsent & self._channels.keys(), set()
        if channels:
            async with asyncio.timeout(self._tick):
                await pubsub.subscribe(*channels)

    async def _read(self, pubsub: PubSub, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None after so many seconds, or once there is a new channel."""
        try:
            async with asyncio.timeout(seconds) as self._reading:
                message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
                return message
        except TimeoutError:
            return None
        finally:
            self._reading = None

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "message":
            self._on_message(message["channel"].decode(), message["data"])
        elif message["type"] == "subscribe":  # also when redis-py connected anew by itself
            channel = message["channel"].decode()
            self.refusal = None
            self._pause = _FIRST_PAUSE
            self._outage_log.back()
            if channel in self._channels:
                self._confirmed.add(channel)
                self._on_subscribe(channel)

    async def _ping(self, pubsub: PubSub) -> None:
        idle = self._drop_idle()
        async with asyncio.timeout(self._tick):
            if idle:
                await pubsub.unsubscribe(*idle)
            await pubsub.ping()

    def _drop_idle(self) -> list[str]:
        now = time.monotonic()
        idle = [channel for channel, until in self._channels.items() if until <= now]
        for channel in idle:
            del self._channels[channel]
            self._confirmed.discard(channel)
        return idle


async def open_pubsub(client: RedisClient) -> PubSub:
    """Make a pub/sub connection, which connects when it subscribes.

    Raises:
        redis.exceptions.ConnectionError: no node of the cluster answers.
    """
    if isinstance(client, RedisCluster):
        await client.initialize()
        # Any node will do: the nodes tell each other what is published.
        pubsub: PubSub = client.pubsub(node=client.get_random_node())
        return pubsub
    return client.pubsub()
