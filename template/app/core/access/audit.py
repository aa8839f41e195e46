"""Denials from the ACL logs of the servers: also those that no request has noticed.

Every process polls the logs, and a script in Redis says what no process has reported yet, so that
each denial is in the logs of the service once.

A server keeps the last 128 entries (`acllog-max-len`), and a stranger makes one with every user
name that they try. So it is reported, too, how many entries were lost: servers since Redis 7.2
count their denials, and whatever was counted and is not in the log was pushed out, or erased.
Whoever may read the log may also erase it (no ACL can separate the two), but not the count.
"""

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import NoPermissionError, RedisError

from app.core.access import metrics
from app.core.redis import OutageLog, RedisClient, Script
from app.core.tasks import Tasks

log = structlog.get_logger(__name__)

# KEYS: what was reported. ARGV: how long to remember it (ms), the run of the server, its time when
# it was polled, its denials in all (both '' if unknown), then the digest and count of each entry.
# Answers how many entries were lost (-1: perhaps some), and how much of each entry is new: nothing
# for a process that has polled before the last one that reported. The log of a server is short, so
# all of it is remembered anew; a count that went down is of a server that has forgotten.
_REPORT = Script("""
local known, news, seen = {}, {}, 0
local reported = redis.call('HGETALL', KEYS[1])
for i = 1, #reported, 2 do known[reported[i]] = reported[i + 1] end
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
# Servers have `acllog-max-len` at most; this bounds one that is configured to keep everything.
_MAX_ENTRIES = 2000
_MAX_TARGET = 200  # characters: a key may be as long as its sender likes
_MAX_ADDRESSES = 5


class _Log(NamedTuple):
    """What one server says of its denials."""

    run: str
    """Its run id, which changes with each start of the server."""
    time: str
    """When it was polled, by its clock."""
    denials: int | None
    """How many there were in this run; None if it does not count them, or not for us."""
    entries: list[Mapping[str, Any]]


class Audit:
    """Reports denials: polls `ACL LOG` of every primary."""

    def __init__(
        self, client: RedisClient, *, users: Mapping[str, str], prefix: str, interval: float
    ) -> None:
        """Make an audit that does not poll yet.

        Args:
            client: may do `ACL LOG` and INFO, and has the keys that begin with `prefix`. It stays
                the caller's.
            users: the users of this service, and their roles; a server may have others' as well.
            prefix: begins the names of keys.
            interval: seconds between two polls.
        """
        self._client = client
        self._users = users
        self._prefix = prefix
        self._interval = interval
        self._tasks = Tasks()
        self._may_count = True
        """Whether INFO was not denied."""
        self.error: Exception | None = None
        """Why the last poll failed."""

    def start(self) -> None:
        self._tasks.start(self._run())

    async def stop(self) -> None:
        await self._tasks.stop()

    async def poll(self) -> None:
        """Report what is new.

        Raises:
            RedisError, OSError: a server did not answer.
        """
        for node, found in (await self._logs()).items():
            await self._report(f"{self._prefix}:reported:{node}", found)

    async def _run(self) -> None:
        outage = OutageLog("access.audit")
        while True:
            try:
                await self.poll()
                self.error = None
                outage.back()
            except (RedisError, OSError) as error:
                outage.lost(error)
                self.error = error
            await asyncio.sleep(self._interval)

    async def _logs(self) -> dict[str, _Log]:
        if not isinstance(self._client, RedisCluster):
            return {"server": await self._log()}
        await self._client.initialize()
        return {
            node.name: await self._log(target_nodes=node) for node in self._client.get_primaries()
        }

    async def _log(self, **where: Any) -> _Log:
        # The count comes first: a denial between the two is then in the log and not yet counted,
        # and is not taken for lost.
        info = await self._info(**where)
        counts = [int(n) for name, n in info.items() if name.startswith("acl_access_denied_")]
        reply = await self._client.execute_command("ACL", "LOG", str(_MAX_ENTRIES), **where)
        return _Log(
            run=str(info.get("run_id", "")),
            time=str(info.get("server_time_usec", "")),
            denials=sum(counts) if counts else None,
            entries=_entries(reply),
        )

    async def _info(self, **where: Any) -> Mapping[str, Any]:
        if self._may_count:
            try:
                info: Mapping[str, Any] = await self._client.info(**where)
                return info
            except NoPermissionError as error:
                self._may_count = False
                log.warning("access.audit_cannot_count", error=str(error), missing="+info")
        return {}

    async def _report(self, key: str, found: _Log) -> None:
        counts: dict[bytes, int] = {}
        entries: dict[bytes, Mapping[str, Any]] = {}
        for entry in found.entries:
            name = _digest(entry)
            counts[name] = counts.get(name, 0) + int(entry["count"])
            entries[name] = entry
        words = [word for pair in counts.items() for word in pair]
        denials = "" if found.denials is None else found.denials
        arguments = [_REMEMBER_MS, found.run, found.time, denials, *words]
        lost, *news = await _REPORT.run(self._client, [key], arguments)
        new = [(entries[name], count) for name, count in zip(counts, news, strict=True) if count]
        for entry, count in new:
            if (role := self._users.get(str(entry["username"]))) is not None:
                _report_denial(role, entry, count)
        strangers = [
            (entry, count)
            for entry, count in new
            if entry["username"] not in self._users and entry["reason"] == "auth"
        ]
        if strangers:
            _report_strangers(strangers)
        if lost:
            metrics.lost_denials.inc(max(1, lost))
            log.warning(
                "access.denials_lost",
                count=lost if lost > 0 else "unknown",
                why="they were pushed out of the server's log, or erased",
            )


def _report_denial(role: str, entry: Mapping[str, Any], count: int) -> None:
    reason = str(entry["reason"])
    metrics.logged_denials.labels(role, reason).inc(count)
    log.warning(
        "access.denied_by_redis",
        role=role,
        reason=reason,
        context=entry["context"],
        target=str(entry["object"])[:_MAX_TARGET],
        count=count,
    )


def _report_strangers(attempts: Sequence[tuple[Mapping[str, Any], int]]) -> None:
    """Write one line for all names that are not users of this service: anybody can try many."""
    count = sum(count for _, count in attempts)
    metrics.logged_denials.labels("unknown", "auth").inc(count)
    log.warning(
        "access.unknown_users",
        count=count,
        names=len({entry["username"] for entry, _ in attempts}),
        addresses=sorted({_address(entry) for entry, _ in attempts})[:_MAX_ADDRESSES],
    )


def _address(entry: Mapping[str, Any]) -> str:
    words = str(entry.get("client-info", "")).split()
    address = next((word for word in words if word.startswith("addr=")), "")
    return address.removeprefix("addr=").rpartition(":")[0]


def _digest(entry: Mapping[str, Any]) -> bytes:
    """Return what identifies a denial. Before Redis 7.2, entries have no id."""
    names = ("entry-id", "timestamp-created", "username", "reason", "context", "object")
    fact = "\0".join(str(entry.get(name, "")) for name in names)
    return blake2b(fact.encode(errors="surrogatepass"), digest_size=16).hexdigest().encode()


def _entries(reply: Any) -> list[Mapping[str, Any]]:
    """Return the entries as mappings of text, whichever protocol they came in."""
    return [
        {_text(name): _text(value) for name, value in entry.items()}
        if isinstance(entry, Mapping)
        else {_text(a): _text(b) for a, b in zip(entry[::2], entry[1::2], strict=True)}
        for entry in reply
    ]


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
