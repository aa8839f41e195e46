"""Notices what would make entries wrong that nothing in them tells.

**Forgotten invalidations.** A server that is restarted on an older snapshot, and a replica that
takes over before it has got everything, bring back entries whose invalidation was confirmed. But
nobody reads from another server over an old connection, so each new one asks first who answers: by
the id of the server's run, and by the history that a promoted replica left (`master_replid2`). A
marker beside the entries, which is lost and found together with them, says which server each policy
was last seen on. Where that was another one, the policy's version goes, and with it all that was
stored under it.

**Clocks that differ.** An entry says until when it is fresh in the time of the process that made
it. Where another process believes in another time, the entry is too old for it, or from the future:
both load it again and again, and the cache is worse than none. So the time of the server is asked
for now and then, together with a fill lease, and whoever differs says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.redis import FairCluster, RedisClient, Script, advice, is_unreadable, reply_code

log = structlog.get_logger(__name__)

_RUN = re.compile(rb"run_id:(\w+)")
_LEFT = re.compile(rb"master_replid2:(\w+)")
_MAX_TAGS = 4096
"""Among so many hash tags there is one for each node of a cluster, unless it has hardly a slot."""
TOLERANCE_SECONDS = 2.0
"""Seconds by which this clock may differ from the server's. Entries are fresh that much longer or
shorter; those from further ahead than `entry_codec.MAX_AHEAD_MS` are not believed at all."""
_CLOCK_INTERVAL_SECONDS = 60.0
"""Seconds between two looks, and between two lines in the log."""

# KEYS marker, versions. ARGV server, policies. Nobody knows where a policy was seen that the marker
# does not name: it was never used, or the marker was evicted. The first to come drops it.
_MARK_NEW_POLICIES = Script("""
for i = 2, #KEYS do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then
    redis.call('UNLINK', KEYS[i])
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[1])
  end
end
""")


class ServerWatch:
    """Notices servers that may have forgotten invalidations."""

    def __init__(
        self,
        client: RedisClient,
        marker: str,
        *,
        policies: Callable[[], Mapping[str, str]],
        drop_later: Callable[[Sequence[str]], None],
    ) -> None:
        """Watch the servers of one client.

        Args:
            client: its connections call `check_connection`.
            marker: the name of the marker; in a cluster it gets a hash tag for each node.
            policies: gives the version's name for each policy.
            drop_later: deletes versions in the background, in a cluster, where they are on other
                nodes. When that is done, `mark_servers` is to be called.
        """
        self._cluster = client if isinstance(client, FairCluster) else None
        self._marker = marker
        self._policies = policies
        self._drop_later = drop_later
        self._known: dict[str, bytes] = {}
        self._unmarked: dict[str, tuple[Any, ...]] = {}
        """By node: what marks it once the versions are deleted."""
        self._is_blind = False

    async def check_connection(self, connection: Any) -> None:
        """Find out which server is at the other end of a connection that was just made.

        Raises:
            ConnectionError: the old entries are still there, so nobody may read over it yet.
        """
        node = f"{connection.host}:{connection.port}" if self._cluster else ""
        marker = self._marker_on(node)
        server, seen = await self._ask(connection, marker)
        if server is None:
            return
        known = self._known.get(node)
        if known is None or not _is_continued(known, server):
            before = self._last_seen(seen, server) if marker else None
            if marker is None or before is None:
                # Who has which slots is not known yet, or no longer right. The connection is good
                # for finding out; for anything else there will be another one, which asks again.
                connection.mark_for_reconnect()
                return
            if known is not None:  # this process comes from another server
                before = dict.fromkeys(self._policies(), known)
            await self._drop(connection, node, marker, before, server)
        self._known[node] = server

    async def mark_servers(self) -> None:
        """Mark the nodes of a cluster whose versions have been deleted.

        Not before: another process, or the next one if this one dies, would take the mark for it.
        A node that cannot be marked now is dropped once more by who comes next, which is harmless.
        """
        for node, command in list(self._unmarked.items()):
            assert self._cluster is not None
            try:
                await self._cluster.execute_command(*command)
            except (RedisError, OSError) as error:
                log.info("cache.server_not_marked", node=node, error=str(error))
            else:
                if self._unmarked.get(node) is command:
                    del self._unmarked[node]

    def _last_seen(self, seen: Any, server: bytes) -> dict[str, bytes] | None:
        """Return the server each policy was last seen on; None if another node has to be asked."""
        if isinstance(seen, AskError | MovedError) and self._cluster:
            if not self._cluster.is_discovering:
                self._cluster.rediscover()
                raise RedisConnectionError(f"the slots have moved: {seen}")
            return None
        if isinstance(seen, Exception):
            self._work_without(seen)
            return dict.fromkeys(self._policies(), server)
        return {name.decode(): last for name, last in zip(seen[::2], seen[1::2], strict=True)}

    async def _drop(
        self, connection: Any, node: str, marker: str, before: Mapping[str, bytes], server: bytes
    ) -> None:
        """Drop the policies that were on another server, and write down that they are on this.

        Raises:
            ConnectionError: they are still there.
        """
        policies = self._policies()
        fields = [part for policy in policies for part in (policy, server)]
        mark = ("HSET", marker, *fields)
        dropped = [name for name in policies if not _is_continued(before.get(name, server), server)]
        if not dropped:
            unnamed = [name for name in policies if name not in before]
            if unnamed and not self._cluster:
                versions = [policies[name] for name in unnamed]
                await self._write(
                    connection, _MARK_NEW_POLICIES.in_full([marker, *versions], [server, *unnamed])
                )
            elif policies:
                await self._write(connection, mark)
            return
        log.warning(
            "cache.server_may_have_forgotten",
            what="the server was restarted, or another one took over: entries are dropped, because "
            "invalidations may be lost",
            policies=dropped,
        )
        versions = [policies[name] for name in policies if name in dropped or name not in before]
        if self._cluster:
            self._known[node] = server  # what comes next waits for them to be deleted
            self._unmarked[node] = mark
            self._drop_later(versions)
            raise RedisConnectionError("a node may have forgotten invalidations")
        (deleted,) = await _call(connection, ("UNLINK", *versions))
        if isinstance(deleted, Exception):
            raise RedisConnectionError(f"old entries cannot be dropped: {deleted}")
        await self._write(connection, mark)

    async def _write(self, connection: Any, command: tuple[Any, ...]) -> None:
        (reply,) = await _call(connection, command)
        if isinstance(reply, Exception) and not isinstance(reply, AskError | MovedError):
            self._work_without(reply)

    async def _ask(self, connection: Any, marker: str | None) -> tuple[bytes | None, Any]:
        """Return the server, None if that cannot be known, and what the marker says.

        The marker is read each time, though it is seldom needed: an eviction spares what is in use.
        """
        commands: list[tuple[Any, ...]] = [("INFO", "server"), ("INFO", "replication")]
        if marker is not None:
            commands.append(("HGETALL", marker))
        *told, seen = await _call(connection, *commands) + ([] if marker else [None])
        if refused := next((one for one in told if isinstance(one, Exception)), None):
            self._work_without(refused)
            return None, None
        run, left = _RUN.search(told[0]), _LEFT.search(told[1])
        return run[1] + b":" + (left[1] if left else b"0") if run else None, seen

    def _work_without(self, refused: Exception) -> None:
        if is_unreadable(refused) or reply_code(refused) is None:
            raise RedisConnectionError(f"cannot tell what was forgotten: {refused}") from refused
        if not self._is_blind:
            self._is_blind = True
            log.warning(
                "cache.servers_unknown",
                what="invalidations that a failover or a restart loses may not be noticed",
                error=str(refused),
                advice=advice(refused),
            )

    def _marker_on(self, node: str) -> str | None:
        """Return the marker's name; in a cluster one whose slot is on that node, if it has any."""
        if self._cluster is None:
            return self._marker
        owners = self._cluster.nodes_manager.slots_cache
        if not owners:
            return None
        for number in range(_MAX_TAGS):
            name = f"{self._marker}:{{{number}}}"
            owner = owners.get(key_slot(name.encode()))
            if owner and owner[0].name == node:
                return name
        return None


def _is_continued(before: bytes, now: bytes) -> bool:
    """Return whether it is the same server, and has not been a replica in between."""
    run, _, left = now.partition(b":")
    return before == now or (before.startswith(run + b":") and not left.strip(b"0"))


async def _call(connection: AbstractConnection, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands over this connection, and return the replies, errors among them."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


class ClockWatch:
    """Compares the time of day here with the server's, and with the entries of other processes."""

    def __init__(self) -> None:
        self._next = 0.0
        self._skew = 0.0
        self._future_until = 0.0
        self._logged_until = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the server's time should be asked for."""
        return monotonic() >= self._next

    def start_check(self) -> float:
        """Return the time; call it just before the server is asked."""
        self._next = monotonic() + _CLOCK_INTERVAL_SECONDS
        return time()

    def finish_check(self, asked: float, reply: Any) -> None:
        """Compare the reply of TIME, which the server gave between `asked` and now.

        Where it refused to tell (a user without the command) nothing is known, and nothing said.
        """
        match reply:
            case [seconds, microseconds]:
                server = int(seconds) + int(microseconds) / 1e6
            case _:
                return
        # However long the reply took: what is between both moments proves nothing.
        ahead = max(asked - server, 0.0)
        behind = max(server - time(), 0.0)
        self._skew = ahead - behind
        if (problem := self.problem) is not None:
            self._log(problem)

    def note_future_entry(self) -> None:
        """Note that an entry was read that says it was made later than now."""
        self._future_until = monotonic() + _CLOCK_INTERVAL_SECONDS
        self._log(self.problem)

    @property
    def problem(self) -> str | None:
        """What is wrong, for the health page; None while nothing is."""
        if abs(self._skew) > TOLERANCE_SECONDS:
            direction = "ahead of" if self._skew > 0 else "behind"
            return f"this host's clock is {abs(self._skew):.1f} s {direction} the Redis server's"
        if monotonic() < self._future_until:
            return "entries come from the future: the clocks of this service's hosts differ"
        return None

    def _log(self, problem: str | None) -> None:
        if monotonic() >= self._logged_until:
            self._logged_until = monotonic() + _CLOCK_INTERVAL_SECONDS
            log.warning(
                "cache.clocks_differ",
                problem=problem,
                remedy="synchronize the clocks of all hosts, as with NTP",
            )
