"""Sessions in Redis: their ids and keys, what they hold, and how they are read and written.

An id is a bucket and 256 random bits; only this service makes ids. Redis gets a digest of the id,
so whoever reads Redis has nothing to put into a cookie. The digest needs no secret: nobody can
guess an id to compare it with a name, and a secret would have to be kept for as long as there are
sessions, while the keys of the ring come and go.

The bucket is the hash tag of the key. That of a logged-in session follows from its user, so a
user's sessions and the index of them are on one node of a cluster, where one script can change
them together.
"""

import hmac
import json
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import JsonValue
from pydantic_core import from_json

from app.core.redis import RedisClient
from app.core.sessions import metrics
from app.core.sessions.errors import SessionEnded, SessionTooLarge
from app.core.sessions.keyring import KeyRing, Undecipherable
from app.core.sessions.scripts import CHECK, CREATE, END, END_ALL, LIST, REPLACE, SAVE, TOUCH

log = structlog.get_logger(__name__)

Data = dict[str, JsonValue]

_SECRET_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{44}", re.ASCII)
_CONFLICT, _GONE = 0, -1  # what the scripts answer


def new_id(*, user: str | None = None, bucket: int | None = None) -> str:
    """Make an id that nobody has had: for a session of `user`, or in `bucket`, or of nobody yet."""
    if user is not None:
        bucket = _bucket_of_user(user)
    elif bucket is None:
        bucket = secrets.randbelow(256)
    return urlsafe_b64encode(bytes([bucket]) + secrets.token_bytes(_SECRET_BYTES)).decode()


def is_id(text: str) -> bool:
    """Return whether `text` has the form of an id; Redis is asked about nothing else."""
    return _ID.fullmatch(text) is not None


def bucket_of(session_id: str) -> int:
    """Return the bucket of an id, which is its first byte."""
    return urlsafe_b64decode(session_id[:4])[0]


def digest(session_id: str) -> str:
    """Return the name that an id has in Redis."""
    return _hmac(b"id", session_id).hex()


def csrf_token(session_id: str) -> str:
    """Return the token that writes must send. It says nothing about the id."""
    return urlsafe_b64encode(_hmac(b"csrf", session_id)).decode().rstrip("=")


def handle_of(name: str) -> str:
    """Return what a session is called in public, which its name in Redis does not follow from."""
    return _hmac(b"handle", name)[:16].hex()


def _bucket_of_user(user: str) -> int:
    return _hmac(b"user", user)[0]


def _hmac(purpose: bytes, text: str) -> bytes:
    return hmac.digest(b"session " + purpose, text.encode(), "sha256")


class SessionKeys:
    """The keys of one service."""

    def __init__(self, prefix: str) -> None:
        """Raise ValueError if the prefix would take over the hash tag."""
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(f"the prefix of sessions is a text without braces, not {prefix!r}")
        self._prefix = prefix

    def session(self, session_id: str) -> str:
        """Return the key of a session."""
        return f"{self._prefix}:{{{bucket_of(session_id):02x}}}:id:{digest(session_id)}"

    def user_prefix(self, user: str) -> str:
        """Return what the keys of all sessions of a user begin with."""
        return f"{self._prefix}:{{{_bucket_of_user(user):02x}}}:id:"

    def index(self, user: str) -> str:
        """Return the key of the digests of a user's sessions, scored by when they end."""
        name = _hmac(b"user", user)
        return f"{self._prefix}:{{{name[0]:02x}}}:user:{name.hex()}"

    def for_check(self) -> list[str]:
        """Return two keys that no session has, in one slot."""
        return [f"{self._prefix}:{{00}}:check:session", f"{self._prefix}:{{00}}:check:user"]


class Unreadable(Exception):
    """Bytes that are not the content of a session, or that of another version of this code."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a session holds: who is logged in, and the service's own data."""

    user: str | None
    """None as long as nobody is logged in."""
    data: Data

    def to_bytes(self) -> bytes:
        """Return the same bytes for the same content.

        Raises:
            TypeError: a value is not JSON.
        """
        try:
            return json.dumps(
                [self.user, self.data],
                separators=(",", ":"),
                ensure_ascii=False,
                allow_nan=False,
                sort_keys=True,
            ).encode()
        except (TypeError, ValueError) as error:
            raise TypeError(f"the data of a session has to be JSON: {error}") from error

    @classmethod
    def from_bytes(cls, plain: bytes) -> "Content":
        """Read what `to_bytes` has written. Raises Unreadable."""
        try:
            user, data = from_json(plain)
        except (ValueError, TypeError) as error:  # TypeError: no two values
            raise Unreadable(str(error)) from error
        if not (user is None or isinstance(user, str)) or not isinstance(data, dict):
            raise Unreadable("neither a user nor data")
        return cls(user, data)


class Stale(Exception):
    """The session is at another version than the one that was seen; nothing was written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it is in Redis."""

    id: str
    version: int
    expires_at: int
    """When it ends in any case: milliseconds since 1970."""
    plain: bytes

    def content(self) -> Content:
        """Return the content as it is stored; the caller may change it."""
        return Content.from_bytes(self.plain)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session of a user, as the user may see it."""

    handle: str
    """Names it; nobody can use it as a cookie."""
    began_at: datetime
    """When the user logged in."""
    used_at: datetime
    """When the last request came with it."""
    data: Mapping[str, JsonValue]
    is_this: bool
    """Whether it is the one that asks."""


class SessionStore:
    """Reads and writes sessions: encrypted, with their lifetimes, one round trip each.

    Whatever asks Redis raises RedisError when Redis does not answer.
    """

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
        """Make the store of one service; `Sessions` says what the arguments are.

        Raises:
            ValueError: an argument is out of range.
        """
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

    async def load(self, session_id: str) -> tuple[Stored, Content] | None:
        """Read a session, which counts as used now; None if there is none that can be read.

        The content is the caller's, who may change it.
        """
        key = self._keys.session(session_id)
        found = await TOUCH.run(self._client, [key], [self._idle_ms])
        if found is None:
            metrics.loads.labels("unknown").inc()
            return None
        blob, version, expires_at = found
        try:
            plain = self._ring.decrypt(blob, session=key, context=_context(version, expires_at))
            content = Content.from_bytes(plain)
        except (Undecipherable, Unreadable) as error:
            reason = error.reason if isinstance(error, Undecipherable) else "unreadable"
            metrics.loads.labels(reason).inc()
            if reason == "tampered":
                log.warning("sessions.tampered", key=key)
            return None
        metrics.loads.labels("loaded").inc()
        return Stored(session_id, int(version), int(expires_at), plain), content

    async def check(self) -> None:
        """Run every command that the scripts have."""
        await CHECK.run(self._client, self._keys.for_check(), [])

    async def create(self, session_id: str, content: Content) -> Stored:
        """Write a session under an id that is new.

        Raises:
            SessionTooLarge: nothing was written.
        """
        expires_at = int(time.time() * 1000) + self._absolute_ms
        stored = Stored(session_id, 1, expires_at, self.encode(content))
        keys = [self._keys.session(session_id), *self._index_keys(content)]
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
        key = self._keys.session(seen.id)
        stored = Stored(seen.id, seen.version + 1, seen.expires_at, self.encode(content))
        blob = self._encrypt(stored, key)
        answer = await SAVE.run(self._client, [key], [seen.version, blob, self._idle_ms])
        _raise_unless_written(answer, "saved")
        return stored

    async def replace(self, seen: Stored, session_id: str, content: Content) -> Stored:
        """Give a session that is still as it was seen another id; the old one is gone at once.

        The new id must be in the bucket of the old one. Raises as `save` does.
        """
        stored = Stored(session_id, 1, seen.expires_at, self.encode(content))
        new_and_old = [self._keys.session(session_id), self._keys.session(seen.id)]
        keys = [*new_and_old, *self._index_keys(content)]
        arguments = [*self._arguments(stored), seen.version]
        _raise_unless_written(await REPLACE.run(self._client, keys, arguments), "replaced")
        return stored

    async def end(self, stored: Stored) -> None:
        """Delete a session, also under an id that another request has given it meanwhile."""
        keys = [self._keys.session(stored.id), *self._index_keys(stored.content())]
        await END.run(self._client, keys, [])
        metrics.writes.labels("ended").inc()

    async def end_all(self, user: str, *, but: str | None = None) -> int:
        """Delete every session of a user, except for the id `but`; return how many there were."""
        spared = "" if but is None else digest(but)
        arguments = [self._keys.user_prefix(user), spared]
        ended = int(await END_ALL.run(self._client, [self._keys.index(user)], arguments))
        metrics.writes.labels("ended").inc(ended)
        return ended

    async def list_all(self, user: str, *, this: str | None) -> list[OpenSession]:
        """Return the sessions of a user, the last used one first; `this` is the id of one."""
        found = []
        for name, blob, version, expires_at, used in await self._listed(user):
            key = self._keys.user_prefix(user) + name
            try:
                plain = self._ring.decrypt(blob, session=key, context=_context(version, expires_at))
                content = Content.from_bytes(plain)
            except (Undecipherable, Unreadable):
                continue  # nobody can use it either
            session = OpenSession(
                handle=handle_of(name),
                began_at=_moment(int(expires_at) - self._absolute_ms),
                used_at=_moment(int(used)),
                data=content.data,
                is_this=this is not None and name == digest(this),
            )
            found.append(session)
        return sorted(found, key=lambda session: session.used_at, reverse=True)

    async def end_one(self, user: str, handle: str) -> bool:
        """End the session of this handle, if it is one of the user's; return whether it was.

        Also under an id that another request gives it meanwhile.
        """
        for name, *_ in await self._listed(user):
            if hmac.compare_digest(handle_of(name).encode(), handle.encode()):
                keys = [self._keys.user_prefix(user) + name, self._keys.index(user)]
                await END.run(self._client, keys, [])
                metrics.writes.labels("ended").inc()
                return True
        return False

    async def _listed(self, user: str) -> list[tuple[str, bytes, bytes, bytes, bytes]]:
        arguments = [self._keys.user_prefix(user), self._idle_ms]
        answer = await LIST.run(self._client, [self._keys.index(user)], arguments)
        return [(name.decode(), *rest) for name, *rest in answer]

    def encode(self, content: Content) -> bytes:
        """Return what is to be encrypted.

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

    def _encrypt(self, stored: Stored, key: str) -> bytes:
        context = _context(b"%d" % stored.version, b"%d" % stored.expires_at)
        return self._ring.encrypt(stored.plain, session=key, context=context)

    def _arguments(self, new: Stored) -> list[Any]:
        blob = self._encrypt(new, self._keys.session(new.id))
        return [blob, new.expires_at, self._idle_ms, self._max_per_user]

    def _index_keys(self, content: Content) -> list[str]:
        return [] if content.user is None else [self._keys.index(content.user)]


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _context(version: bytes, expires_at: bytes) -> bytes:
    """Return what a blob is encrypted for, besides its session: neither can be changed in Redis."""
    return version + b" " + expires_at


def _raise_unless_written(answer: Any, outcome: str) -> None:
    if answer == _GONE:
        metrics.writes.labels("gone").inc()
        raise SessionEnded
    if answer == _CONFLICT:
        raise Stale
    metrics.writes.labels(outcome).inc()
