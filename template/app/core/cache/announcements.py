"""Invalidations, told to the near caches of all processes.

A message is published in the same round trip as the invalidation itself. Pub/sub promises nothing
to a listener that is away: whoever is not sure of the link does not use the near cache.
"""

import json
from collections.abc import Iterable
from typing import Any

from app.core.cache.near import NearCache
from app.core.redis import Link, RedisClient

_ENTRIES, _VERSIONS = "entries", "versions"


def entries_message(keys: Iterable[str]) -> str:
    return json.dumps([_ENTRIES, *keys])


def versions_message(names: Iterable[str]) -> str:
    return json.dumps([_VERSIONS, *names])


class Listener:
    """Keeps a near cache informed over a connection of its own."""

    def __init__(self, client: RedisClient, channel: str, near: NearCache) -> None:
        self._near = near
        self._link = Link(client, [channel], heard=self._heard, lost=near.disconnected)

    async def run(self) -> None:
        """Listen until cancelled."""
        await self._link.run()

    def _heard(self, channel: str, message: bytes | None) -> None:
        if message is None:  # the subscription is in place (again)
            self._near.connected()
            return
        match _parsed(message):
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
