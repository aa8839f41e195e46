"""For tests: a clock for what is cached, and how often it is loaded."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, time
from unittest.mock import patch

from prometheus_client import REGISTRY

from app.core.cache import near, results

_OUTCOMES = ("ok", "error", "timeout", "cancelled")


class CacheClock:
    """The time by which entries are fresh or stale; made by `cache_clock`."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def advance(self, seconds: float) -> None:
        """Entries are that much older from now on."""
        self._ahead += seconds

    def time(self) -> float:
        """Return the seconds since 1970, as caches see them."""
        return time() + self._ahead

    def monotonic(self) -> float:
        """Return the seconds by which the near cache lets go."""
        return monotonic() + self._ahead


@contextmanager
def cache_clock() -> Iterator[CacheClock]:
    """Let all caches of this process grow old without waiting.

        with cache_clock() as clock:
            await client.get("/items")
            clock.advance(61)
            await client.get("/items")  # the ttl was 60: it is loaded

    It decides what is fresh, stale, or too old to be served, in Redis and in the near cache. Time
    itself goes on: fill leases, timeouts, `error_throttle`, locks and sessions know nothing of it,
    and Redis removes what has expired by its own clock. Give each test keys of its own: what was
    stored ahead of time is from the future for those that come later.
    """
    clock = CacheClock()
    with ExitStack() as stack:
        for module in (results, near):
            stack.enter_context(patch.object(module, "time", clock.time))
        stack.enter_context(patch.object(near, "monotonic", clock.monotonic))
        yield clock


class Loads:
    """How often the loaders of a policy have run, in this process; made by `counted_loads`."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._before = self._all()

    @property
    def count(self) -> int:
        """Loads that have ended since then, whatever came out."""
        return int(self._all() - self._before)

    def _all(self) -> float:
        labels = [{"policy": self._policy, "outcome": outcome} for outcome in _OUTCOMES]
        found = [REGISTRY.get_sample_value("cache_loads_total", each) for each in labels]
        if None in found:
            raise LookupError(f"there is no policy {self._policy!r} yet: start the service first")
        return sum(filter(None, found))


def counted_loads(policy: str) -> Loads:
    """Begin to count how often the loaders of a policy run, by its metrics.

    Raises:
        LookupError: no cache of this process has a policy of this name.
    """
    return Loads(policy)
