"""What Redis refuses: counted, logged and told to the health checks, whoever sent the command.

A part that goes on without Redis, as the cache does, raises nothing to anybody. So what the server
refuses is noted where its replies are read, for each client.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from app.core.observability.metrics import begin_at_zero
from app.core.redis.outages import advice, is_known, reply_code

log = structlog.get_logger(__name__)

_total = Counter(
    "redis_refusals",
    "Commands that Redis did not carry out, by the first word of its reply.",
    ["client", "code"],
)

_LOG_EVERY = 60.0
_RECENT = 10.0
"""Seconds; longer than the pause between two looks at the health of a service."""
_EXPECTED = frozenset({"NOSCRIPT", "MOVED", "ASK", "TRYAGAIN"})
"""Part of how clients talk to servers."""
_MISTAKES = frozenset({"WRONGTYPE", "CROSSSLOT", "ERR"})
"""Of a single command: whoever sent it is told, and the server is as it should be."""
_STATES = ("NOPERM", "WRONGPASS", "OOM", "READONLY", "NOREPLICAS", "MISCONF", "BUSY")


class Refused(RedisError):
    """Redis answers, and does not do what a part of the service needs."""


@dataclass(slots=True)
class _Kind:
    last: float
    logged: float
    unlogged: int
    text: str


class Refusals:
    """What the server has refused to one client."""

    def __init__(
        self,
        client: str,
        *,
        expected: Collection[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`client` is its name; `expected` are first words that mean nothing is wrong."""
        self._client = client
        self._monotonic = monotonic
        self._expected = _EXPECTED.union(expected)
        self._kinds: dict[str, _Kind] = {}
        begin_at_zero(_total, [client], _STATES)

    def note(self, error: Exception) -> None:
        """Count a reply. The first of its kind is logged, and then one a minute."""
        code = reply_code(error)
        if code is None or code in self._expected:
            return
        if not is_known(code):  # a script may invent words
            code = "ERR"
        _total.labels(self._client, code).inc()
        if code in _MISTAKES:
            return
        now = self._monotonic()
        kind = self._kinds.setdefault(code, _Kind(now, -_LOG_EVERY, 0, ""))
        kind.last, kind.text = now, f"{code}: {error}"
        kind.unlogged += 1
        if now - kind.logged >= _LOG_EVERY:
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
        """For the health page.

        Raises:
            Refused: something was refused within the last 10 seconds.
        """
        since = self._monotonic() - _RECENT
        if recent := [kind.text for kind in self._kinds.values() if kind.last >= since]:
            raise Refused("; ".join(recent))
