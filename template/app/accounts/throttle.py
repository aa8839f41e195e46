"""Guessing passwords is made slow: so many tries for an account from one address, then a pause.

By both, because a limit for the account alone would let anybody lock its owner out.
"""

from hashlib import blake2b

from app.core.redis import RedisClient, Script

# KEYS counter. ARGV window (ms). Answers how many tries there were and ms until the window ends.
_COUNT = Script("""
local tries = redis.call('INCR', KEYS[1])
if tries == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {tries, redis.call('PTTL', KEYS[1])}
""")


class Throttle:
    """Counts tries in a window that begins with the first one."""

    def __init__(
        self, client: RedisClient, *, prefix: str, tries: int = 10, window: float = 600.0
    ) -> None:
        """`window` is in seconds."""
        self._client = client
        self._prefix = prefix
        self._tries = tries
        self._window_ms = int(window * 1000)

    async def wait_for(self, *who: str) -> float:
        """Count a try; how many seconds to wait before the next one, 0 if it may go on.

        Raises:
            RedisError: Redis did not answer.
        """
        tries, left = await _COUNT.run(self._client, [self._key(who)], [self._window_ms])
        return float(left / 1000) if tries > self._tries else 0.0

    async def forget(self, *who: str) -> None:
        """Whoever got in may begin anew. Raises RedisError."""
        await self._client.delete(self._key(who))

    def _key(self, who: tuple[str, ...]) -> str:
        return f"{self._prefix}:{blake2b(repr(who).encode(), digest_size=16).hexdigest()}"
