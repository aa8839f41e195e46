"""A session, as one request sees it."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import JsonValue

from app.core.sessions import metrics
from app.core.sessions.errors import SessionConflict, SessionEnded
from app.core.sessions.store import (
    Content,
    Data,
    OpenSession,
    SessionStore,
    Stale,
    Stored,
    bucket_of,
    csrf_token,
    new_id,
)

_ATTEMPTS = 8
"""How often a write is merged with those of other requests, before it is a conflict."""

_MISSING: Any = object()


class Session:
    """Who is logged in, and a little data of the service's own.

    Changes are written when the response begins, if there are any, and before anything of it is
    sent: a client that is told of a change can rely on it. `save` writes them earlier, for a route
    that wants to know before it goes on. A response with a server error writes nothing.

    What changes after that, in a stream, a background task or a web socket, is written at its end.
    A login, a new session and another id are not, for no cookie can tell the client of them; the
    log then has an error.
    """

    data: Data
    """JSON, with texts for keys. Keep it small: every request reads it."""

    def __init__(
        self, store: SessionStore, stored: Stored | None = None, content: Content | None = None
    ) -> None:
        """Make the session that is stored, with its content, or a new one of nobody."""
        self._store = store
        self._stored = stored
        self._id = new_id() if stored is None else stored.id
        self._rotates = False
        self._replaced: Stored | None = None
        """The session that ends with the next write, because this one takes its place."""
        self._has_ended = False
        self._client_id = None if stored is None else stored.id
        """The id in the client's cookie."""
        self._user = None if content is None else content.user
        self.data = {} if content is None else content.data

    @property
    def user(self) -> str | None:
        """Who is logged in; None for nobody."""
        return self._user

    @property
    def is_known(self) -> bool:
        """Whether it is in Redis; otherwise it begins with the first change."""
        return self._stored is not None

    @property
    def csrf_token(self) -> str:
        """What writes must send as `X-CSRF-Token`. It changes with the id."""
        return csrf_token(self._id)

    def log_in(self, user: str) -> None:
        """Make it the session of a user who has just proved who they are.

        It gets another id, and a lifetime of its own: what somebody knew or planted before is
        worthless. The data stays, unless it was another user's.
        """
        if self._user not in (None, user):
            self.data = {}
        self._leave()
        self._user, self._id = user, new_id(user=user)

    def log_out(self) -> None:
        """End the session, and drop its data."""
        self._leave()
        self._user, self._id, self.data = None, new_id(), {}

    async def log_out_everywhere(self, *, keep_this: bool = False) -> None:
        """End all sessions of the user, now.

        Args:
            keep_this: all but this one, which should then get another id (`rotate`).

        Raises:
            RuntimeError: nobody is logged in.
            RedisError: Redis did not answer; some or all may have ended.
        """
        if self._user is None:
            raise RuntimeError("nobody is logged in: there are no sessions to end")
        this = self._stored.id if keep_this and self._stored is not None else None
        await self._store.end_all(self._user, but=this)
        if not keep_this:
            self._stored, self._has_ended = None, True
            self.log_out()

    async def list_all(self) -> list[OpenSession]:
        """Return all sessions of the user, the last used one first; there are 100 at most.

        Raises:
            RuntimeError: nobody is logged in.
            RedisError: Redis did not answer.
        """
        this = None if self._stored is None else self._stored.id
        return await self._store.list_all(self._known_user(), this=this)

    async def end(self, handle: str) -> bool:
        """End the session of the user that has this handle, now; return whether there was one.

        It has ended for all processes: each request reads its session. Another user's is none.

        Raises:
            RuntimeError: nobody is logged in.
            RedisError: Redis did not answer; perhaps it has ended.
        """
        return await self._store.end_one(self._known_user(), handle)

    def _known_user(self) -> str:
        if self._user is None:
            raise RuntimeError("nobody is logged in: there are no sessions")
        return self._user

    def rotate(self) -> None:
        """Give the session another id, with the next write; the old one is then worthless.

        Call it whenever its user may do more than before. The session ends when it would have.
        """
        if self._stored is None:
            self._id = new_id(user=self._user)
        else:
            self._rotates = True
            self._id = new_id(bucket=bucket_of(self._stored.id))

    async def save(self) -> None:
        """Write what has changed; if nothing has, this costs no round trip.

        Raises:
            SessionConflict: another request gave the same key of `data` another value; `data` is
                now as that request left it.
            SessionEnded: the session is gone, and nothing brings it back; it is one of nobody now.
            SessionTooLarge: there is too much in `data`.
            TypeError: something in `data` is not JSON.
            RedisError: Redis did not answer; perhaps the session was written.
        """
        content = self._content()
        plain = self._store.encode(content)  # before anything ends
        if self._replaced is not None:
            await self._end(self._replaced)
        if self._stored is None:
            if content.user is not None or content.data:
                self._stored = await self._store.create(self._id, content)
        elif self._rotates:
            await self._write(lambda seen, new: self._store.replace(seen, self._id, new))
            self._rotates = False
        elif plain != self._stored.plain:
            await self._write(self._store.save)

    async def save_late(self) -> bool:
        """Write what has changed since the response began, as far as that needs no new cookie.

        Written are data of a session that the client knows, and logging out. A new session, a login
        and another id are not: the client could not be told of them.

        Returns:
            Whether that was all.

        Raises:
            Exception: as `save`.
        """
        if self._user is None and self._replaced is not None:
            await self._end(self._replaced)
        begins = self._user is not None or bool(self.data)
        if self._rotates or (self._stored is None and begins):
            return False
        await self.save()
        return True

    def new_cookie(self) -> tuple[str, int] | None:
        """Return what to put into the client's cookie; None if it has that already.

        Returns:
            The id and its lifetime in seconds; ("", 0) if the client should drop the cookie.
        """
        current = None if self._stored is None else self._stored.id
        if current == self._client_id or (current is None and not self._has_ended):
            return None
        self._client_id = current
        if self._stored is None:
            return "", 0
        return self._stored.id, max(1, self._stored.expires_at // 1000 - int(time.time()))

    def resend_cookie(self) -> None:
        """Have the client told of its id, even if it has it."""
        self._client_id = None

    async def _write(self, write: Callable[[Stored, Content], Awaitable[Stored]]) -> None:
        """Write the session; if others have written it meanwhile, merge their changes."""
        assert self._stored is not None
        base = self._stored.content().data
        for _ in range(_ATTEMPTS):
            try:
                self._stored = await write(self._stored, self._content())
                return
            except SessionEnded:
                self._become_anonymous()
                raise
            except Stale:
                self._stored = await self._reload(self._stored)
                theirs = self._stored.content().data
                merged = _merge(base, self.data, theirs)
                if merged is None:
                    break
                base, self.data = theirs, merged
                metrics.writes.labels("merged").inc()
        metrics.writes.labels("conflict").inc()
        self.data = self._stored.content().data
        raise SessionConflict

    async def _reload(self, seen: Stored) -> Stored:
        found = await self._store.load(seen.id)
        if found is None:
            self._become_anonymous()
            raise SessionEnded
        return found[0]

    async def _end(self, replaced: Stored) -> None:
        await self._store.end(replaced)
        self._replaced, self._has_ended = None, True

    def _become_anonymous(self) -> None:
        self._stored, self._rotates = None, False
        self._user, self._id, self.data = None, new_id(), {}

    def _content(self) -> Content:
        return Content(self._user, self.data)

    def _leave(self) -> None:
        if self._stored is not None:
            self._replaced, self._stored = self._stored, None
        self._rotates = False


def _merge(base: Mapping[str, JsonValue], mine: Data, theirs: Data) -> Data | None:
    """Apply both sides' changes of `base`, key by key; None if they contradict each other."""
    merged = dict(theirs)
    for key in base.keys() | mine.keys():
        before, after = base.get(key, _MISSING), mine.get(key, _MISSING)
        if _is_same(after, before):
            continue
        now = theirs.get(key, _MISSING)
        if not _is_same(now, before) and not _is_same(now, after):
            return None
        merged.pop(key, None)
        if after is not _MISSING:
            merged[key] = after
    return merged


def _is_same(one: Any, other: Any) -> bool:
    """Compare values as they are written, unlike `==`, for which 1 is True and 1.0."""
    if one is _MISSING or other is _MISSING:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
