"""A pub/sub connection that says when it is lost.

Pub/sub promises nothing to a listener that is away, and a half-open connection looks like silence.
So the link asks for a sign of life, connects anew when there is none, and tells its owner of every
subscription: what was published before it may have gone unheard.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

import structlog
from redis.asyncio import RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.redis.clients import RedisClient
from app.core.redis.outages import OutageLog, is_refusal

log = structlog.get_logger(__name__)

_RECONNECT_AFTER = 0.5
_ASK_AGAIN_AFTER = 60.0
"""Seconds until another try, where the server does not allow it; people mend permissions."""

OnMessage = Callable[[str, bytes | None], None]
"""Takes the channel and the message; None is the confirmation of a subscription."""


class PubSubConnection:
    """Listens to some channels over a connection of its own."""

    def __init__(
        self,
        client: RedisClient,
        channels: Sequence[str],
        *,
        on_message: OnMessage,
        on_disconnect: Callable[[], None],
        deadline: float = 3.0,
    ) -> None:
        """`on_disconnect` is called when it ends, and after `deadline` seconds of silence."""
        self._client = client
        self._channels = channels
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._deadline = deadline
        self._ask_after = deadline / 3
        self._outage = OutageLog("redis.link", channels=channels)
        self.refusal: str | None = None
        """Why the server does not let this user listen."""

    async def run(self) -> None:
        """Listen until cancelled, over as many connections as it takes."""
        while True:
            try:
                async with await open_pubsub(self._client) as pubsub:
                    await pubsub.subscribe(*self._channels)
                    await self._listen(pubsub)
            except (RedisError, OSError) as error:
                self.refusal = str(error) if is_refusal(error) else None
                self._outage.lost(error)
            except Exception:  # without this task nobody would hear anything any more
                log.exception("redis.link_failed", channels=self._channels)
            finally:
                self._on_disconnect()
            await asyncio.sleep(_ASK_AGAIN_AFTER if self.refusal else _RECONNECT_AFTER)

    async def _listen(self, pubsub: PubSub) -> None:
        task = asyncio.current_task()
        assert task is not None
        heard = asked = monotonic()
        while True:
            message = await pubsub.get_message(timeout=self._ask_after)
            if task.cancelling():  # which redis-py took for its own timeout
                raise asyncio.CancelledError
            now = monotonic()
            if message is not None:
                heard = now
                if message["type"] == "message":
                    self._on_message(message["channel"].decode(), message["data"])
                elif message["type"] == "subscribe":  # also when redis-py connected anew by itself
                    self.refusal = None
                    self._outage.back()
                    self._on_message(message["channel"].decode(), None)
            elif now - heard > self._deadline:
                raise RedisConnectionError(f"no sign of life for {self._deadline} s")
            elif now - asked >= self._ask_after:
                asked = now
                await pubsub.ping()


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
