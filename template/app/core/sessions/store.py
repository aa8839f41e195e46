"""Sessions in Redis: the scripts with encryption, times and errors."""

import time
from dataclasses import dataclass
from typing import Any

import structlog

from app.core.redis import RedisClient
from app.core.sessions import metrics
from app.core.sessions.content import Content, Unreadable
from app.core.sessions.errors import SessionEnded, SessionTooLarge
from app.core.sessions.ids import SessionKeys, digest
from app.core.sessions.keyring import KeyRing, Undecipherable
from app.core.sessions.scripts import CHECK, CREATE, END, END_ALL, REPLACE, SAVE, TOUCH

log = structlog.get_logger(__name__)

_CONFLICT, _GONE = 0, -1


class Stale(Exception):
    """The session is at another version than the one that was seen; nothing was written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as Redis has it. `ends` is in milliseconds since 1970."""

    id: str
    version: int
    ends: int
    plain: bytes

    def content(self) -> Content:
        return Content.from_bytes(self.plain)


class SessionStore:
    """What asks Redis costs one round trip, and raises RedisError when there is no answer."""

    def __init__(
        self,
        client: RedisClient,
        ring: KeyRing,
        *,
        prefix: str,
        idle_timeout: float,
        absolute_timeout: float,
        max_bytes: int,
        max_per_user: int,
    ) -> None:
        """Times in seconds. Raises ValueError if an argument is out of range."""
        if not 0.001 <= idle_timeout <= absolute_timeout:
            raise ValueError(
                "the idle timeout of sessions is more than 0 and at most the absolute one, not "
                f"{idle_timeout!r} s of {absolute_timeout!r} s"
            )
        if max_bytes < 1 or max_per_user < 1:
            raise ValueError("max_bytes and max_per_user are at least 1")
        self._client = client
        self._ring = ring
        self._keys = SessionKeys(prefix)
        self._idle_ms = int(idle_timeout * 1000)
        self._absolute_ms = int(absolute_timeout * 1000)
        self._max_bytes = max_bytes
        self._max_per_user = max_per_user

    async def load(self, session_id: str) -> Stored | None:
        """The session with this id, which counts as used now; None if there is none to be read."""
        key = self._keys.session(session_id)
        found = await TOUCH.run(self._client, [key], [self._idle_ms])
        if found is None:
            metrics.loads.labels("unknown").inc()
            return None
        blob, version, ends = found
        try:
            plain = self._ring.decrypt(blob, session=key, context=_context(version, ends))
            Content.from_bytes(plain)
        except (Undecipherable, Unreadable) as error:
            reason = error.reason if isinstance(error, Undecipherable) else "unreadable"
            metrics.loads.labels(reason).inc()
            if reason == "tampered":
                log.warning("session.tampered", key=key)
            return None
        metrics.loads.labels("loaded").inc()
        return Stored(session_id, int(version), int(ends), plain)

    async def check(self) -> None:
        """Run every command that the scripts have. Raises RedisError."""
        await CHECK.run(self._client, list(self._keys.for_check()), [])

    async def create(self, session_id: str, content: Content) -> Stored:
        """Write a session under an id that is new.

        Raises:
            SessionTooLarge: nothing was written.
        """
        stored = self._new(session_id, content, int(time.time() * 1000) + self._absolute_ms)
        keys = [self._keys.session(session_id), *self._index(content)]
        await CREATE.run(self._client, keys, self._arguments(stored))
        metrics.writes.labels("created").inc()
        return stored

    async def save(self, seen: Stored, content: Content) -> Stored:
        """Write a session that is still as it was seen.

        Raises:
            Stale: another request has written it.
            SessionEnded: it is gone, and stays so.
            SessionTooLarge: nothing was written.
        """
        plain = self.encode(content)
        key, version = self._keys.session(seen.id), seen.version + 1
        blob = self._ring.encrypt(plain, session=key, context=_context(version, seen.ends))
        answer = await SAVE.run(self._client, [key], [seen.version, blob, self._idle_ms])
        _raise_unless_written(answer, "saved")
        return Stored(seen.id, version, seen.ends, plain)

    async def replace(self, seen: Stored, session_id: str, content: Content) -> Stored:
        """Give a session that is still as it was seen another id; the old one is gone at once.

        The new id has to be in the bucket of the old one. Raises as `save` does.
        """
        stored = self._new(session_id, content, seen.ends)
        keys = [self._keys.session(session_id), self._keys.session(seen.id), *self._index(content)]
        arguments = [*self._arguments(stored), seen.version]
        _raise_unless_written(await REPLACE.run(self._client, keys, arguments), "replaced")
        return stored

    async def end(self, stored: Stored) -> None:
        keys = [self._keys.session(stored.id), *self._index(stored.content())]
        await END.run(self._client, keys, [])
        metrics.writes.labels("ended").inc()

    async def end_all(self, user: str, *, but: str | None = None) -> int:
        """End every session of a user, but for one if need be; how many there were."""
        spared = "" if but is None else digest(but)
        arguments = [self._keys.of_user(user), spared]
        ended = int(await END_ALL.run(self._client, [self._keys.index(user)], arguments))
        metrics.writes.labels("ended").inc(ended)
        return ended

    def encode(self, content: Content) -> bytes:
        """What is to be encrypted.

        Raises:
            SessionTooLarge: it is larger than allowed.
            TypeError: something in it is not JSON.
        """
        plain = content.to_bytes()
        if len(plain) > self._max_bytes:
            raise SessionTooLarge(
                f"the session would have {len(plain)} bytes, and {self._max_bytes} are allowed: "
                "keep in it what says who asks, and the rest in the database"
            )
        return plain

    def _new(self, session_id: str, content: Content, ends: int) -> Stored:
        return Stored(session_id, 1, ends, self.encode(content))

    def _arguments(self, new: Stored) -> list[Any]:
        key = self._keys.session(new.id)
        blob = self._ring.encrypt(new.plain, session=key, context=_context(1, new.ends))
        return [blob, new.ends, self._idle_ms, self._max_per_user]

    def _index(self, content: Content) -> list[str]:
        return [] if content.user is None else [self._keys.index(content.user)]


def _context(version: int | bytes, ends: int | bytes) -> bytes:
    """What a blob is encrypted for, beside its session: neither can be changed in Redis."""
    return b" ".join(n if isinstance(n, bytes) else b"%d" % n for n in (version, ends))


def _raise_unless_written(answer: Any, outcome: str) -> None:
    if answer == _GONE:
        metrics.writes.labels("gone").inc()
        raise SessionEnded
    if answer == _CONFLICT:
        raise Stale
    metrics.writes.labels(outcome).inc()
