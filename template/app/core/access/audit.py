"""Denials from the log of the servers: also those that no request has noticed.

Every process looks now and then, and a script in Redis says what nobody has told yet, so that each
denial is in the logs of the service once.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

from app.core.access import metrics
from app.core.redis import RedisClient, Script, stop_tasks

log = structlog.get_logger(__name__)

# KEYS what was told. ARGV how long to remember it (ms), then an entry and its count, for each.
# Answers how much of each is new. The log of a server is short, so all of it is remembered anew; a
# count that went down is of a server that has forgotten.
_NEWS = Script("""
local known, news = {}, {}
local told = redis.call('HGETALL', KEYS[1])
for i = 1, #told, 2 do known[told[i]] = tonumber(told[i + 1]) end
redis.call('DEL', KEYS[1])
for i = 2, #ARGV, 2 do
  local count, before = tonumber(ARGV[i + 1]), known[ARGV[i]] or 0
  news[#news + 1] = count >= before and count - before or count
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return news
""")
_REMEMBER_MS = 7 * 24 * 3600 * 1000


class Audit:
    """Looks into `ACL LOG` every `interval` seconds."""

    def __init__(
        self, client: RedisClient, *, users: Mapping[str, str], prefix: str, interval: float
    ) -> None:
        """`client` may do `ACL LOG`, and has the keys that begin with `prefix`.

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
        self._failed = False

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
        for node, entries in (await self._logs()).items():
            await self._tell(f"{self._prefix}:told:{node}", entries)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                self._failed = False
            except (RedisError, OSError) as error:
                if not self._failed:
                    log.warning("access.audit_unavailable", error=str(error))
                self._failed = True
            await asyncio.sleep(self._interval)

    async def _logs(self) -> dict[str, list[Mapping[str, Any]]]:
        if not isinstance(self._client, RedisCluster):
            return {"server": _entries(await self._client.execute_command("ACL", "LOG"))}
        await self._client.initialize()
        return {
            node.name: _entries(await self._client.execute_command("ACL", "LOG", target_nodes=node))
            for node in self._client.get_primaries()
        }

    async def _tell(self, key: str, entries: list[Mapping[str, Any]]) -> None:
        counts: dict[tuple[str, ...], int] = {}
        for entry in entries:
            if entry["username"] in self._users:
                fact = _fact(entry)
                counts[fact] = counts.get(fact, 0) + int(entry["count"])
        if not counts:
            return
        words = [word for fact, n in counts.items() for word in ("\0".join(fact), n)]
        news = await _NEWS.run(self._client, [key], [_REMEMBER_MS, *words])
        for (_, user, reason, context, target), count in zip(counts, news, strict=True):
            if count:
                role = self._users[user]
                metrics.logged_denials.labels(role, reason).inc(count)
                log.warning(
                    "access.denied_by_redis",
                    role=role,
                    reason=reason,
                    context=context,
                    target=target,
                    count=count,
                )


def _fact(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells one denial from another. Before Redis 7.2, entries have no id."""
    identity = f"{entry.get('entry-id', '')}-{entry.get('timestamp-created', '')}"
    parts = (entry[name] for name in ("username", "reason", "context", "object"))
    return (identity, *map(str, parts))


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
