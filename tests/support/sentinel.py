"""A primary, its replica and three sentinels, who agree on a new primary when one is gone."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG
from tests.support.asking import ask

SERVICE = "primary"
_QUORUM = 2
_SENTINELS = 3
_POLL = 0.02
# Milliseconds. The rhythm of a real deployment takes seconds to notice anything. It has to keep:
# ping-period < down-after, or each new primary is down before its first ping is answered;
# 5 * ping-period > 1000, how old a replica's INFO may be, and is, when it becomes the primary.
_RHYTHM = {"ping-period": 250, "info-period": 300, "publish-period": 200, "ask-period": 100}
_DOWN_AFTER = 600
# Two sentinels may ask for votes at once, and both fail: the next try is after twice this time.
_FAILOVER_TIMEOUT = 1_000


class EmbeddedSentinel(EmbeddedValkey):
    """One sentinel."""

    _name = "Sentinel"
    _ready = "Sentinel ID is"

    def __init__(self, primary: EmbeddedValkey) -> None:
        super().__init__()
        self._primary = primary

    def _prepare(self) -> None:
        (self.folder / "sentinel.conf").write_text(
            f"sentinel monitor {SERVICE} {self._primary.host} {self._primary.port} {_QUORUM}\n"
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} {_FAILOVER_TIMEOUT}\n"
        )

    def _command(self) -> list[str]:
        binary, *_ = super()._command()
        conf = self.folder / "sentinel.conf"
        return [
            *(binary, str(conf), "--sentinel"),
            *("--bind", self.host, "--port", str(self.port), "--dir", str(self.folder)),
        ]

    def is_settled(self) -> bool:
        """Whether it knows the other sentinels, and a replica that is in step."""
        state = ask(self, "SENTINEL", "MASTER", SERVICE)
        replicas = ask(self, "SENTINEL", "REPLICAS", SERVICE)
        return (
            state["flags"] == "master"
            and int(state["num-other-sentinels"]) == _SENTINELS - 1
            and [(r["flags"], r["master-link-status"]) for r in replicas] == [("slave", "ok")]
        )


class ReplicatedValkey:
    """Ready for a failover on entering, gone on leaving."""

    servers: Sequence[EmbeddedValkey]
    """The first primary and its replica."""
    sentinels: Sequence[EmbeddedSentinel]

    def __init__(self) -> None:
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        sentinels = ",".join(f"{node.host}:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://{sentinels}/{SERVICE}/0"

    def primary(self) -> EmbeddedValkey:
        """Who is the primary, as the first of the sentinels says."""
        port = _named_by(self.sentinels[0])
        return next(server for server in self.servers if server.port == port)

    def kill_primary(self) -> EmbeddedValkey:
        """Kill the primary, and return it: `bring_back` makes it a replica."""
        primary = self.primary()
        primary.kill()
        return primary

    def wait_for_new_primary(self, old: EmbeddedValkey, timeout: float = HANG) -> EmbeddedValkey:
        """Wait until all sentinels that answer name another primary, and it takes writes.

        Raises:
            TimeoutError: none does after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            named = {port for port in map(_named_by, self.sentinels) if port is not None}
            for server in self.servers:
                if server is not old and named == {server.port} and _is_primary(server):
                    return server
            time.sleep(_POLL)
        raise TimeoutError(f"no new primary after {timeout:g} s")

    def bring_back(self, killed: EmbeddedValkey) -> None:
        """Restart a killed primary as the replica of the one that has taken its place.

        Raises:
            TimeoutError: it is not in step after some time.
        """
        primary = self.primary()
        # Otherwise it would be a primary of its own, and empty, until a sentinel notices.
        killed.configuration["replicaof"] = (primary.host, primary.port)
        killed.restart()
        self.wait_until_settled()

    def wait_until_settled(self, timeout: float = HANG) -> None:
        """Wait until all sentinels know each other, the primary and its replica.

        Raises:
            TimeoutError: they do not after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not all(sentinel.is_settled() for sentinel in self.sentinels):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the sentinels did not settle in {timeout:g} s")
            time.sleep(_POLL)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            primary = stack.enter_context(EmbeddedValkey(repl_diskless_sync_delay=0))
            replica = stack.enter_context(
                EmbeddedValkey(repl_diskless_sync_delay=0, replicaof=(primary.host, primary.port))
            )
            self.servers = (primary, replica)
            self.sentinels = [
                stack.enter_context(EmbeddedSentinel(primary)) for _ in range(_SENTINELS)
            ]
            for sentinel in self.sentinels:
                for name, milliseconds in _RHYTHM.items():
                    ask(sentinel, "SENTINEL", "DEBUG", name, milliseconds)
            self.wait_until_settled()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def _named_by(sentinel: EmbeddedSentinel) -> int | None:
    try:
        _, port = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    except RedisError:
        return None
    return int(port)


def _is_primary(server: EmbeddedValkey) -> bool:
    try:
        role = ask(server, "ROLE")
    except RedisError:
        return False
    return bool(role[0] == "master")
