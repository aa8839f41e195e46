"""Invalidations, told to the near caches of all processes.

Every process announces what it invalidates, whether it has a near cache or not. A message goes out
behind the invalidation itself: a near cache that hears of it and asks again must not be given the
old entry once more. Pub/sub promises nothing to a listener that is away: whoever is not sure of the
link does not use the near cache.
"""

import json
from collections.abc import Sequence
from time import monotonic
from typing import Any

import structlog

from app.core.cache.near import NearCache
from app.core.redis import Command, OutageLog, PubSubConnection, RedisClient, advice, is_refusal

log = structlog.get_logger(__name__)

_ENTRIES, _VERSIONS = "entries", "versions"
_TRY_AGAIN_SECONDS = 600.0
"""Seconds; permissions are mended by people."""


class Announcer:
    """Publishes invalidations, where the server allows it."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._silent_until = 0.0
        self.refusal: str | None = None
        """Why the server does not publish for this user."""

    def messages(self, values: Sequence[str], names: Sequence[str]) -> list[Command]:
        """Return the commands that announce the invalidation of entries, policies and tags."""
        if self.refusal and monotonic() < self._silent_until:
            return []
        news = ((_ENTRIES, values), (_VERSIONS, names))
        return [
            ("PUBLISH", self._channel, json.dumps([kind, *changed]))
            for kind, changed in news
            if changed
        ]

    def note_replies(self, replies: Sequence[Any]) -> None:
        """Remember whether the server has published messages."""
        for reply in replies:
            if not (isinstance(reply, Exception) and is_refusal(reply)):
                self.refusal = None
                continue
            if self.refusal is None:
                log.warning(
                    "cache.not_announced",
                    what="near caches of other processes keep what is invalidated for near_ttl",
                    channel=self._channel,
                    error=str(reply),
                    advice=advice(reply),
                )
            self.refusal = str(reply)
            self._silent_until = monotonic() + _TRY_AGAIN_SECONDS


class Backplane:
    """Keeps a near cache informed over a connection of its own."""

    def __init__(self, client: RedisClient, channel: str, near: NearCache) -> None:
        self._near = near
        self._channel = channel
        self._connection = PubSubConnection(
            client,
            on_message=self._on_message,
            on_subscribe=lambda _: near.switch_on(),
            on_disconnect=near.switch_off,
            outage_log=OutageLog("cache.backplane", channel=channel),
        )

    @property
    def refusal(self) -> str | None:
        """The reason why the server does not let this user listen; None: it does."""
        return self._connection.refusal

    def start(self) -> None:
        """Listen, as soon and as long as the server can be reached."""
        self._connection.subscribe(self._channel)

    async def close(self) -> None:
        """Stop listening for good."""
        await self._connection.close()

    def _on_message(self, _: str, message: bytes) -> None:
        match _parsed(message):
            case [kind, *names] if kind == _ENTRIES:
                self._near.invalidate(map(str, names))
            case [kind, *names] if kind == _VERSIONS:
                self._near.invalidate_versions(map(str, names))
            case _:  # of a later version of this code: whatever it says, nothing old is kept
                self._near.switch_on()


def _parsed(message: bytes) -> Any:
    try:
        return json.loads(message)
    except ValueError:
        return None
