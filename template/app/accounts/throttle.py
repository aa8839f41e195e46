"""Guessing passwords, and making accounts, is made slow: so many tries, then a pause.

By account and address, because a limit for the account alone would let anybody lock its owner out;
by address, against those who try one password with many names; and by account, higher, against
those who have many addresses. A try that one limit refuses is not counted by the next: nobody uses
up an account's tries from one address. Who gets in has its tries back, so that the limits of an
address are not those of an office behind it.
"""

from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address

import structlog
from redis.exceptions import RedisError

from app.core.redis import RedisClient, Script

log = structlog.get_logger(__name__)

# KEYS counter. ARGV window (ms). Answers how many tries there were and ms until the window ends.
_COUNT = Script("""
local tries = (tonumber(redis.call('HGET', KEYS[1], 'tries')) or 0) + 1
redis.call('HSET', KEYS[1], 'tries', tries)
if tries == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {tries, redis.call('PTTL', KEYS[1])}
""")
# KEYS counter.
_GIVE_BACK = Script("""
local tries = tonumber(redis.call('HGET', KEYS[1], 'tries'))
if tries and tries > 1 then redis.call('HSET', KEYS[1], 'tries', tries - 1)
else redis.call('DEL', KEYS[1]) end
return 1
""")


@dataclass(frozen=True, slots=True)
class Limit:
    """So many tries in a window of so many seconds, which begins with the first one."""

    name: str
    tries: int
    window: float = 600.0


PAIR = Limit("account and address", 10)
ADDRESS = Limit("address", 30)
ACCOUNT = Limit("account", 100)
REGISTRATION = Limit("registration", 20)


class Throttle:
    """Counts tries in Redis, for all processes. Where nothing else is said, raises RedisError."""

    def __init__(self, client: RedisClient, *, prefix: str) -> None:
        """`prefix` begins the names of keys."""
        self._client = client
        self._prefix = prefix

    async def wait_for_login(self, account: str, address: str) -> float:
        """Count a try to log in; how many seconds to wait before another, 0 if it may go on."""
        return (
            await self._count(ADDRESS, network(address))
            or await self._count(PAIR, account, network(address))
            or await self._count(ACCOUNT, account)
        )

    async def wait_for_registration(self, address: str) -> float:
        """Count a new account; how many seconds to wait before another, 0 if it may go on.

        Without Redis nothing is counted: no secret can be guessed by registering.
        """
        try:
            return await self._count(REGISTRATION, network(address))
        except (RedisError, OSError) as error:
            log.warning("accounts.not_limited", limit=REGISTRATION.name, error=str(error))
            return 0.0

    async def forget_login(self, account: str, address: str) -> None:
        """Whoever got in may begin anew, and has used up nobody's tries."""
        await self._client.delete(self._key(PAIR, account, network(address)))
        for key in (self._key(ADDRESS, network(address)), self._key(ACCOUNT, account)):
            await _GIVE_BACK.run(self._client, [key], [])

    async def _count(self, limit: Limit, *who: str) -> float:
        key = self._key(limit, *who)
        tries, left = await _COUNT.run(self._client, [key], [int(limit.window * 1000)])
        if tries == limit.tries + 1:
            # Where all clients seem to have one address it is a proxy's, and everybody waits.
            hint = "is this a proxy? then FORWARDED_ALLOW_IPS needs it"
            log.warning("accounts.limited", limit=limit.name, who=who, hint=hint)
        return max(0.001, float(left / 1000)) if tries > limit.tries else 0.0

    def _key(self, limit: Limit, *who: str) -> str:
        name = repr((limit.name, *who)).encode()
        return f"{self._prefix}:{blake2b(name, digest_size=16).hexdigest()}"


def network(address: str) -> str:
    """What counts as one address: of IPv6 a /64, which every customer has at least."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket file has none
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return str(found)
