"""The sessions of a service: made once, and given to the middleware."""

from collections.abc import Callable, Collection, Sequence
from time import monotonic

from app.core.browser import check_origins
from app.core.redis import Probe, RedisClient
from app.core.sessions.cookie import SessionCookie
from app.core.sessions.keyring import KeyRing
from app.core.sessions.session import Session
from app.core.sessions.store import SessionStore, is_id


class Sessions:
    """Opens and ends the sessions of one service."""

    def __init__(
        self,
        client: RedisClient,
        *,
        prefix: str,
        keys: Sequence[str],
        idle_timeout: float = 3600.0,
        absolute_timeout: float = 43_200.0,
        max_bytes: int = 4096,
        max_per_user: int = 100,
        trusted_origins: Collection[str] = (),
        cookie: str = "session",
        plain_on_loopback: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Make the sessions of a service, without I/O.

        Args:
            client: has a pool of its own, and a server that evicts nothing. It stays the caller's.
            prefix: starts every key; name the service in it, so that services can share a server.
            keys: secrets; the first one encrypts, all of them decrypt.
            idle_timeout: seconds without a request after which a session ends.
            absolute_timeout: seconds after its beginning, or the login, when it ends in any case.
            max_bytes: the most that a session may hold.
            max_per_user: how many sessions a user may have; one more ends the oldest.
            trusted_origins: other origins whose pages may write, such as "https://app.example".
            cookie: its name, without `__Host-`; name the service in it, so that services can share
                a host. For one absolute timeout, cookies that are called "session" are accepted.
            plain_on_loopback: let a browser on this machine keep the cookie without TLS. For
                development: some browsers refuse secure cookies from http://localhost.
            clock: tells seconds.

        Raises:
            ValueError: an argument is out of range.
        """
        self.trusted_origins = check_origins(trusted_origins)
        self.cookie = SessionCookie(cookie, plain_on_loopback)
        self._client = client
        self._prefix = prefix
        self._clock = clock
        self._old_cookies_until = clock() + absolute_timeout
        self._store = SessionStore(
            client,
            KeyRing(keys),
            prefix=prefix,
            idle_timeout=idle_timeout,
            absolute_timeout=absolute_timeout,
            max_bytes=max_bytes,
            max_per_user=max_per_user,
        )

    async def open(self, session_id: str | None) -> Session:
        """Return the session with this id, or a new one. An unknown id is never adopted.

        Raises:
            RedisError: Redis did not answer.
        """
        if session_id is not None and is_id(session_id):
            found = await self._store.load(session_id)
            if found is not None:
                return Session(self._store, *found)
        return Session(self._store)

    @property
    def accepts_old_cookies(self) -> bool:
        """Whether a session may still be alive whose cookie has the old name."""
        return self._clock() < self._old_cookies_until

    async def check(self) -> None:
        """Try everything that sessions do in Redis, in one round trip, leaving nothing behind.

        Raises:
            RedisError: something is denied, refused or unknown; or Redis did not answer.
        """
        await self._store.check()

    @property
    def probe(self) -> Probe:
        """What sessions need of their server."""
        key = f"{self._prefix}:probe"
        return Probe(part="sessions", client=self._client, key=key, write=("HSET", "probe", "1"))

    async def end_all(self, user: str) -> int:
        """End every session of a user, in all browsers; return how many there were.

        Raises:
            RedisError: Redis did not answer; some or all may have ended.
        """
        return await self._store.end_all(user)
