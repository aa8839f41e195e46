"""What an error of Redis means, what to do about it, and who is told of it.

The first word of the server's reply decides. redis-py has classes for some of the words only (none
for NOREPLICAS, MISCONF or BUSY), it leaves the word out of the message where it has one, and both
its pipelines and scripts before Redis 7 wrap the reply of a command into a sentence of their own.

`OutageLog` logs that Redis is away, and `Refusals` that it answers and does not do what is asked: a
part that goes on without Redis, as the cache does, raises nothing to anybody.
"""

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.observability.metrics import begin_at_zero

log = structlog.get_logger(__name__)

_refusals = Counter(
    "redis_refusals",
    "Commands that Redis did not carry out, by the first word of its reply.",
    ["client", "code"],
)

_TRANSIENT = {
    "LOADING": "the server is reading its data from disk",
    "MASTERDOWN": "the replica has lost its primary: is there a new one?",
    "CLUSTERDOWN": "nobody serves some of the cluster's slots: look at CLUSTER INFO",
    "TRYAGAIN": "the slot is being moved to another node",
    "READONLY": "the server is a replica: is there a new primary, or does the URL name a replica?",
    "UNBLOCKED": "the server became a replica while the command waited",
    "NOREPLICAS": "too few replicas follow the primary: look at min-replicas-to-write and at them",
    "MISCONF": "the server cannot save its data: look at its disk, and at LASTSAVE",
    "BUSY": "a script keeps the server busy: wait, or SCRIPT KILL",
    "OOM": "the server's memory is full: raise maxmemory, or let it evict (maxmemory-policy)",
}
_PERMANENT = {
    "NOPERM": "the user lacks a command, a key pattern or a channel: extend its line of the ACL "
    "file, and ACL LOAD",
    "WRONGPASS": "the server does not know this user and password: look at the Redis URL",
    "NOAUTH": "the server wants a password: put it into the Redis URL",
    "NOSCRIPT": "the server does not know the script: send it with EVAL",
    "WRONGTYPE": "the key holds another kind of value: does somebody else use its name?",
    "MOVED": "the server is part of a cluster: its URL begins with redis+cluster://",
    "CROSSSLOT": "the keys of one command need a common {hash tag} in a cluster",
    "DENIED": "the server is in protected mode: give it a password, or bind it to this host",
    "UNKNOWN": "the server does not know the command: it is too old, or a proxy leaves it out",
}
_UNREADABLE = {"LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY"}
_EXPECTED = frozenset({"NOSCRIPT", "MOVED", "ASK", "TRYAGAIN"})
"""Replies that are part of the protocol between client and server."""
_MISTAKES = frozenset({"WRONGTYPE", "CROSSSLOT", "ERR"})
"""Mistakes of a single command: its sender is told, and the server is fine."""
_STATES = ("NOPERM", "WRONGPASS", "OOM", "READONLY", "NOREPLICAS", "MISCONF", "BUSY")

_LOG_REFUSALS_EVERY = 60.0
"""Seconds between two lines about the same kind."""
_RECENT = 10.0
"""Seconds for which a refusal counts: longer than the pause between two health checks."""

# What the reply of a command is wrapped into: by redis-py's pipelines, by Lua before Redis 7, and
# by EXEC.
_WRAPPERS = re.compile(
    r"""(?: Command\ \#\ \d+\ \(.*\)\ of\ pipeline\ caused\ error:\ \(?["']?
        |  (?:ERR\ )?Error\ running\ script\ \(call\ to\ \w+\):\ (?:@user_script:\ ?\d+:\ )*-?
        |  (?:EXECABORT\ )?Transaction\ discarded\ because\ of:\ -?
        )*""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[A-Z]+(?=\s|$)")
# Words for what has none: denied inside of a script (Valkey and Redis 7.2; before), and a command
# that the server does not have.
_SENTENCES = (
    (re.compile("acl failure in script|the user executing the script can't", re.I), "NOPERM"),
    (re.compile("(ERR )?unknown (redis )?(sub)?command", re.I), "UNKNOWN"),
)


def reply_code(error: BaseException) -> str | None:
    """Return the first word of the server's reply: `NOREPLICAS`, `NOPERM`, `ERR`, ...

    "UNKNOWN" stands for commands that the server does not have. None: the error is no reply, such
    as a connection that was lost.
    """
    if not isinstance(error, RedisError):
        return None
    if error.status_code not in (None, "ERR", "EXECABORT"):
        return error.status_code
    if not isinstance(error, ResponseError):
        return error.status_code
    text = str(error)
    wrappers = _WRAPPERS.match(text)
    reply = text[wrappers.end() :] if wrappers else text
    for sentence, code in _SENTENCES:
        if sentence.match(reply):
            return code
    if word := _WORD.match(reply):
        return word[0]
    return error.status_code


def is_transient(error: BaseException) -> bool:
    """Return whether another try later may succeed as it is: the server is away, busy or demoted.

    Every other error means that a command, a permission or a setting is wrong. Errors that were
    raised together (`ExceptionGroup`) are transient if all of them are.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_transient, error.exceptions))
    code = reply_code(error)
    if code in _TRANSIENT:
        return True
    if code in _PERMANENT or isinstance(error, AuthenticationError | AuthorizationError):
        return False
    lost = (RedisConnectionError, RedisTimeoutError, ClusterError, SlotNotCoveredError)
    return isinstance(error, lost)


def is_unreadable(error: BaseException) -> bool:
    """Return whether the server does not even answer reads for a while."""
    code = reply_code(error)
    return is_transient(error) and (code in _UNREADABLE or code not in _TRANSIENT)


def is_refusal(error: BaseException) -> bool:
    """Return whether the server has answered, and will say the same the next time."""
    return reply_code(error) is not None and not is_transient(error)


def advice(error: BaseException) -> str | None:
    """Return what to do about an error, in words for a log; None where only its text can tell."""
    code = reply_code(error) or ""
    return _TRANSIENT.get(code) or _PERMANENT.get(code)


class OutageLog:
    """Logs one line when an outage begins and one when it is over, for code that keeps trying."""

    def __init__(
        self, what: str, *, monotonic: Callable[[], float] = time.monotonic, **facts: Any
    ) -> None:
        """`what` begins the name of both events (`redis.pubsub_lost`); both have the `facts`."""
        self._what = what
        self._facts = facts
        self._monotonic = monotonic
        self._since: float | None = None
        self._failures = 0

    def lost(self, error: BaseException) -> None:
        """Log the first failure, and count the next ones."""
        self._failures += 1
        if self._since is None:
            self._since = self._monotonic()
            reason = f"{type(error).__name__}: {error}"
            log.warning(f"{self._what}_lost", error=reason, advice=advice(error), **self._facts)

    def back(self) -> None:
        """Log that the outage is over, if there was one."""
        if self._since is not None:
            log.info(
                f"{self._what}_back",
                seconds=round(self._monotonic() - self._since, 1),
                failures=self._failures,
                **self._facts,
            )
            self._since, self._failures = None, 0


class Refused(RedisError):
    """Redis answers, but refuses what a part of the service needs."""


@dataclass(slots=True)
class _Kind:
    last: float
    logged: float
    unlogged: int
    text: str


class Refusals:
    """What the server has refused to one client: counted, logged, and told to the health checks."""

    def __init__(
        self,
        client: str,
        *,
        expected: Collection[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`client` is its name; `expected` are the first words of replies that are no fault."""
        self._client = client
        self._monotonic = monotonic
        self._expected = _EXPECTED.union(expected)
        self._kinds: dict[str, _Kind] = {}
        begin_at_zero(_refusals, [client], _STATES)

    def note(self, error: Exception) -> None:
        """Count a reply; log the first of its kind, and then one a minute."""
        code = reply_code(error)
        if code is None or code in self._expected:
            return
        if code not in _TRANSIENT and code not in _PERMANENT:  # a script may invent words
            code = "ERR"
        _refusals.labels(self._client, code).inc()
        if code in _MISTAKES:
            return
        now = self._monotonic()
        kind = self._kinds.setdefault(code, _Kind(now, -_LOG_REFUSALS_EVERY, 0, ""))
        kind.last, kind.text = now, f"{code}: {error}"
        kind.unlogged += 1
        if now - kind.logged >= _LOG_REFUSALS_EVERY:
            log.warning(
                "redis.refused",
                client=self._client,
                code=code,
                error=str(error),
                times=kind.unlogged,
                advice=advice(error),
            )
            kind.logged, kind.unlogged = now, 0

    def check(self) -> None:
        """Tell the health page whether the client is refused anything.

        Raises:
            Refused: something was refused within the last 10 seconds.
        """
        since = self._monotonic() - _RECENT
        if recent := [kind.text for kind in self._kinds.values() if kind.last >= since]:
            raise Refused("; ".join(recent))
