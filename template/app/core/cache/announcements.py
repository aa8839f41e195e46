"""Invalidations, told to the near caches of all processes.

A message is published in the same round trip as the invalidation itself. Pub/sub promises nothing
to a listener that is away, and a half-open connection looks like silence: so a listener asks for a
sign of life, and whoever is not sure of the link does not use the near cache.
"""

import asyncio
import json
from collections.abc import Iterable
from time import monotonic
from typing import Any

import structlog
from redis.asyncio import RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.cache.near import NearCache
from app.core.redis import RedisClient

log = structlog.get_logger(__name__)

_ENTRIES, _VERSIONS = "entries", "versions"
_ASK_AFTER = 1.0
_SILENCE = 3.0
_RECONNECT_AFTER = 0.5


def entries_message(keys: Iterable[str]) -> str:
    return json.dumps([_ENTRIES, *keys])


def versions_message(names: Iterable[str]) -> str:
    return json.dumps([_VERSIONS, *names])


class Listener:
    """Keeps a near cache informed over a connection of its own."""

    def __init__(self, client: RedisClient, channel: str, near: NearCache) -> None:
        self._client = client
        self._channel = channel
        self._near = near

    async def run(self) -> None:
        """Listen until cancelled, over as many connections as it takes."""
        while True:
            try:
                async with await self._open() as link:
                    await link.subscribe(self._channel)
                    await self._listen(link)
            except (RedisError, OSError) as error:
                log.warning("cache.near_link_lost", error=repr(error))
            except Exception:  # without this task the near cache would stay off for good
                log.exception("cache.near_link_failed")
            finally:
                self._near.disconnected()
            await asyncio.sleep(_RECONNECT_AFTER)

    async def _open(self) -> PubSub:
        if isinstance(self._client, RedisCluster):
            await self._client.initialize()
            # Any node will do: the nodes tell each other what is published.
            pubsub: PubSub = self._client.pubsub(node=self._client.get_random_node())
            return pubsub
        return self._client.pubsub()

    async def _listen(self, link: PubSub) -> None:
        task = asyncio.current_task()
        assert task is not None
        heard = asked = monotonic()
        while True:
            message = await link.get_message(timeout=_ASK_AFTER)
            if task.cancelling():  # which redis-py took for its own timeout
                raise asyncio.CancelledError
            now = monotonic()
            if message is not None:
                heard = now
                self._apply(message["type"], message["data"])
            elif now - heard > _SILENCE:
                raise RedisConnectionError(f"no sign of life for {_SILENCE} s")
            elif now - asked >= _ASK_AFTER:
                asked = now
                await link.ping()

    def _apply(self, type_: str, data: bytes) -> None:
        if type_ == "subscribe":  # also after a reconnection that redis-py made by itself
            self._near.connected()
        elif type_ == "message":
            match _parsed(data):
                case [kind, *names] if kind == _ENTRIES:
                    self._near.invalidate(map(str, names))
                case [kind, *names] if kind == _VERSIONS:
                    self._near.renew(map(str, names))
                case _:  # of a later version of this code: whatever it says, nothing old is kept
                    self._near.connected()


def _parsed(message: bytes) -> Any:
    try:
        return json.loads(message)
    except ValueError:
        return None
