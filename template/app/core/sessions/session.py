"""A session, as one request sees it."""

import time
from collections.abc import Awaitable, Callable

from app.core.sessions import metrics
from app.core.sessions.content import Content, Data, merge
from app.core.sessions.errors import SessionConflict, SessionEnded
from app.core.sessions.ids import bucket_of, csrf_token, new_id
from app.core.sessions.store import SessionStore, Stale, Stored

_ATTEMPTS = 8


class Session:
    """Who is logged in, and a little data of the service's own.

    Changes are written when the response begins, if there are any, and before anything of it is
    sent: a client that is told of a change can rely on it. `save` writes them earlier, for a route
    that wants to know before it goes on. A response with a server error writes nothing.

    What changes after that, in a stream, a background task or a web socket, is written at its end.
    A login, a new session and another id are not, for no cookie can tell of them: the log has an
    error then.
    """

    data: Data
    """JSON, with texts for keys. Small: it is read with every request."""

    def __init__(self, store: SessionStore, stored: Stored | None) -> None:
        self._store = store
        self._stored = stored
        self._id = new_id() if stored is None else stored.id
        self._rotates = False
        self._leaves: Stored | None = None
        """What ends with the next write: the session that this one takes the place of."""
        self._left = False
        """Whether it has ended."""
        self._cookie = None if stored is None else stored.id
        content = Content(None, {}) if stored is None else stored.content()
        self._user, self.data = content.user, content.data

    @property
    def user(self) -> str | None:
        """Who is logged in; None for nobody."""
        return self._user

    @property
    def is_known(self) -> bool:
        """Whether it is in Redis, as opposed to one that would begin with a change."""
        return self._stored is not None

    @property
    def csrf_token(self) -> str:
        """What writes have to send as `X-CSRF-Token`. Another id comes with another one."""
        return csrf_token(self._id)

    def log_in(self, user: str) -> None:
        """Make it the session of a user who has just proved who they are.

        It gets another id, and a time of its own: what somebody knew or planted before is worth
        nothing. The data stays, unless it was another user's.
        """
        if self._user not in (None, user):
            self.data = {}
        self._leave()
        self._user, self._id = user, new_id(user=user)

    def log_out(self) -> None:
        """End the session, and forget its data."""
        self._leave()
        self._user, self._id, self.data = None, new_id(), {}

    async def log_out_everywhere(self, *, keep_this: bool = False) -> None:
        """End all sessions of the user, now.

        Args:
            keep_this: all but this one, which should get another id then (`rotate`).

        Raises:
            RuntimeError: nobody is logged in.
            RedisError: Redis did not answer; some or all may have ended.
        """
        if self._user is None:
            raise RuntimeError("nobody is logged in: there are no sessions to end")
        this = self._stored.id if keep_this and self._stored is not None else None
        await self._store.end_all(self._user, but=this)
        if not keep_this:
            self._stored, self._left = None, True
            self.log_out()

    def rotate(self) -> None:
        """Give the session another id, with the next write; the old one is worth nothing then.

        To be called whenever its user may do more than before. It ends when it would have.
        """
        if self._stored is None:
            self._id = new_id(user=self._user)
        else:
            self._rotates = True
            self._id = new_id(bucket=bucket_of(self._stored.id))

    async def save(self) -> None:
        """Write what has changed; costs nothing when nothing has.

        Raises:
            SessionConflict: another request gave the same key of `data` another value; `data` is
                now as that request left it.
            SessionEnded: the session is gone, and nothing brings it back; it is one of nobody now.
            SessionTooLarge: there is too much in `data`.
            TypeError: something in `data` is not JSON.
            RedisError: Redis did not answer: perhaps it was written.
        """
        content = self._content()
        plain = self._store.encode(content)  # before anything ends
        if self._leaves is not None:
            await self._store.end(self._leaves)
            self._leaves, self._left = None, True
        if self._stored is None:
            if content.user is not None or content.data:
                self._stored = await self._store.create(self._id, content)
        elif self._rotates:
            await self._write(lambda seen, new: self._store.replace(seen, self._id, new))
            self._rotates = False
        elif plain != self._stored.plain:
            await self._write(self._store.save)

    def new_cookie(self) -> tuple[str, int] | None:
        """The id that the client does not have yet and its seconds to live; ("", 0) to forget."""
        current = None if self._stored is None else self._stored.id
        if current == self._cookie or (current is None and not self._left):
            return None
        self._cookie = current
        if self._stored is None:
            return "", 0
        return self._stored.id, max(1, self._stored.ends // 1000 - int(time.time()))

    def send_cookie(self) -> None:
        """Have the client told of its id, also if it has it."""
        self._cookie = None

    async def save_late(self) -> bool:
        """Write what has changed since the response began, as far as that needs no new cookie.

        Data of a session that the client has, and logging out. Answers whether that was all; a new
        session, a login and another id would be of no use to who cannot be told of them.

        Raises:
            Exception: as `save`.
        """
        if self._leaves is not None and self._user is None:
            await self._store.end(self._leaves)
            self._leaves, self._left = None, True
        begins = self._user is not None or bool(self.data)
        if self._rotates or (self._stored is None and begins):
            return False
        await self.save()
        return True

    async def _write(self, write: Callable[[Stored, Content], Awaitable[Stored]]) -> None:
        """Write what was seen and changed, with what others have written since."""
        assert self._stored is not None
        base = self._stored.content().data
        for _ in range(_ATTEMPTS):
            try:
                self._stored = await write(self._stored, self._content())
                return
            except SessionEnded:
                self._become_nobodys()
                raise
            except Stale:
                self._stored = await self._current(self._stored)
                theirs = self._stored.content().data
                merged = merge(base, self.data, theirs)
                if merged is None:
                    break
                base, self.data = theirs, merged
                metrics.writes.labels("merged").inc()
        metrics.writes.labels("conflict").inc()
        self.data = self._stored.content().data
        raise SessionConflict

    async def _current(self, seen: Stored) -> Stored:
        current = await self._store.load(seen.id)
        if current is None:
            self._become_nobodys()
            raise SessionEnded
        return current

    def _become_nobodys(self) -> None:
        self._stored, self._rotates = None, False
        self._user, self._id, self.data = None, new_id(), {}

    def _content(self) -> Content:
        return Content(self._user, self.data)

    def _leave(self) -> None:
        if self._stored is not None:
            self._leaves, self._stored = self._stored, None
        self._rotates = False
