"""Denials from the log of the servers: also those that no request has noticed.

Every process looks now and then, and a script in Redis says what nobody has told yet, so that each
denial is in the logs of the service once.

A server keeps the last 128 entries (`acllog-max-len`), and strangers make one with every name that
they try. So what the log has lost is told as well: servers since Redis 7.2 count their denials, and
whatever was counted and is not in the log was pushed out, or erased. Whoever may read the log may
also erase it (no ACL can part the two), but not the count.
"""

import asyncio
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import NoPermissionError, RedisError

from app.core.access import metrics
from app.core.redis import OutageLog, RedisClient, Script, stop_tasks

log = structlog.get_logger(__name__)

# KEYS what was told. ARGV how long to remember it (ms), the run of the server, its time when it was
# looked at, its denials in all (both '' if unknown), then an entry and its count, for each.
# Answers how many were lost (-1: some, perhaps), and how much of each entry is new: nothing to who
# has looked before the last one that told. The log of a server is short, so all of it is remembered
# anew; a count that went down is of a server that has forgotten.
_NEWS = Script("""
local known, news, seen = {}, {}, 0
local told = redis.call('HGETALL', KEYS[1])
for i = 1, #told, 2 do known[told[i]] = told[i + 1] end
local same_run = known.run == ARGV[2]
if same_run and (tonumber(known.time) or 0) > (tonumber(ARGV[3]) or math.huge) then
  for i = 5, #ARGV, 2 do news[#news + 1] = 0 end
  return {0, unpack(news)}
end
redis.call('DEL', KEYS[1])
local met = false
for i = 5, #ARGV, 2 do
  local count, before = tonumber(ARGV[i + 1]), tonumber(known[ARGV[i]]) or 0
  met = met or before > 0
  news[#news + 1] = count >= before and count - before or count
  seen = seen + news[#news]
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
local lost = 0
local all, balance = tonumber(ARGV[4]), tonumber(known.balance) or 0
if all then
  if same_run and known.all and tonumber(known.all) <= all then
    balance = balance + all - tonumber(known.all) - seen
  elseif known.run and not same_run then
    balance = all - seen
  else
    balance = 0
  end
  if balance > 0 then lost, balance = balance, 0 end
  redis.call('HSET', KEYS[1], 'all', ARGV[4], 'balance', balance)
elseif known.run and #news >= 128 and not met then
  lost = -1
end
redis.call('HSET', KEYS[1], 'run', ARGV[2], 'time', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {lost, unpack(news)}
""")
_REMEMBER_MS = 7 * 24 * 3600 * 1000
# Servers have `acllog-max-len` at most; this bounds one that was told to keep everything.
_MOST = 2000
_LONGEST = 200  # characters of what is in an entry: a key may be as long as its sender likes
_ADDRESSES = 5


class _Log(NamedTuple):
    """What one server says of its denials."""

    run: str
    """Another one after each start of the server."""
    time: str
    """When we looked, by its clock."""
    denials: int | None
    """In all since then; None if it does not count them, or not for us."""
    entries: list[Mapping[str, Any]]


class Audit:
    """Looks into `ACL LOG` every `interval` seconds."""

    def __init__(
        self, client: RedisClient, *, users: Mapping[str, str], prefix: str, interval: float
    ) -> None:
        """`client` may do `ACL LOG` and INFO, and has the keys that begin with `prefix`.

        Args:
            client: is closed with the audit.
            users: the users of this service, and their roles; a server may have others' as well.
            prefix: begins the names of keys.
            interval: in seconds.
        """
        self._client = client
        self._users = users
        self._prefix = prefix
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.trouble: Exception | None = None
        """Why the last look failed."""
        self._counts = True
        """Whether INFO was not denied."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await stop_tasks([self._task])
        await self._client.aclose()

    async def look(self) -> None:
        """Write down what is new.

        Raises:
            RedisError, OSError: a server did not answer.
        """
        for node, found in (await self._logs()).items():
            await self._tell(f"{self._prefix}:told:{node}", found)

    async def _run(self) -> None:
        outage = OutageLog("access.audit")
        while True:
            try:
                await self.look()
                self.trouble = None
                outage.back()
            except (RedisError, OSError) as error:
                outage.lost(error)
                self.trouble = error
            await asyncio.sleep(self._interval)

    async def _logs(self) -> dict[str, _Log]:
        if not isinstance(self._client, RedisCluster):
            return {"server": await self._log()}
        await self._client.initialize()
        return {
            node.name: await self._log(target_nodes=node) for node in self._client.get_primaries()
        }

    async def _log(self, **where: Any) -> _Log:
        # The count comes first: a denial in between is in the log and not yet in it, and is not
        # taken for lost.
        info = await self._info(**where)
        counts = [int(n) for name, n in info.items() if name.startswith("acl_access_denied_")]
        reply = await self._client.execute_command("ACL", "LOG", str(_MOST), **where)
        return _Log(
            run=str(info.get("run_id", "")),
            time=str(info.get("server_time_usec", "")),
            denials=sum(counts) if counts else None,
            entries=_entries(reply),
        )

    async def _info(self, **where: Any) -> Mapping[str, Any]:
        if self._counts:
            try:
                info: Mapping[str, Any] = await self._client.info(**where)
                return info
            except NoPermissionError as error:
                self._counts = False
                log.warning("access.audit_cannot_count", error=str(error), missing="+info")
        return {}

    async def _tell(self, key: str, found: _Log) -> None:
        counts: dict[bytes, int] = {}
        facts: dict[bytes, Mapping[str, Any]] = {}
        for entry in found.entries:
            name = _digest(entry)
            counts[name] = counts.get(name, 0) + int(entry["count"])
            facts[name] = entry
        words = [word for pair in counts.items() for word in pair]
        denials = "" if found.denials is None else found.denials
        arguments = [_REMEMBER_MS, found.run, found.time, denials, *words]
        lost, *news = await _NEWS.run(self._client, [key], arguments)
        new = [(facts[name], count) for name, count in zip(counts, news, strict=True) if count]
        for entry, count in new:
            if (role := self._users.get(str(entry["username"]))) is not None:
                _tell_denial(role, entry, count)
        strangers = [
            (entry, count)
            for entry, count in new
            if entry["username"] not in self._users and entry["reason"] == "auth"
        ]
        if strangers:
            _tell_strangers(strangers)
        if lost:
            metrics.lost_denials.inc(max(1, lost))
            log.warning(
                "access.denials_lost",
                count=lost if lost > 0 else "unknown",
                why="they were pushed out of the server's log, or erased",
            )


def _tell_denial(role: str, entry: Mapping[str, Any], count: int) -> None:
    reason = str(entry["reason"])
    metrics.logged_denials.labels(role, reason).inc(count)
    log.warning(
        "access.denied_by_redis",
        role=role,
        reason=reason,
        context=entry["context"],
        target=str(entry["object"])[:_LONGEST],
        count=count,
    )


def _tell_strangers(attempts: Iterable[tuple[Mapping[str, Any], int]]) -> None:
    """One line for all names that are no users of this service: anybody can make any number."""
    attempts = list(attempts)
    count = sum(count for _, count in attempts)
    metrics.logged_denials.labels("unknown", "auth").inc(count)
    log.warning(
        "access.unknown_users",
        count=count,
        names=len({entry["username"] for entry, _ in attempts}),
        addresses=sorted({_address(entry) for entry, _ in attempts})[:_ADDRESSES],
    )


def _address(entry: Mapping[str, Any]) -> str:
    words = str(entry.get("client-info", "")).split()
    address = next((word for word in words if word.startswith("addr=")), "")
    return address.removeprefix("addr=").rpartition(":")[0]


def _digest(entry: Mapping[str, Any]) -> bytes:
    """What tells one denial from another, however long. Before Redis 7.2, entries have no id."""
    names = ("entry-id", "timestamp-created", "username", "reason", "context", "object")
    fact = "\0".join(str(entry.get(name, "")) for name in names)
    return blake2b(fact.encode(errors="surrogatepass"), digest_size=16).hexdigest().encode()


def _entries(reply: Any) -> list[Mapping[str, Any]]:
    """The entries as mappings of text, whichever protocol they came in."""
    return [
        {_text(name): _text(value) for name, value in entry.items()}
        if isinstance(entry, Mapping)
        else {_text(a): _text(b) for a, b in zip(entry[::2], entry[1::2], strict=True)}
        for entry in reply
    ]


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
