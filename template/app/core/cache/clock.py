"""Whether the clocks agree by which entries are fresh.

An entry says until when it is fresh in the time of the process that made it. Where another process
believes in another time, the entry is too old for it, or from the future: both load it again and
again, and the cache is worse than none. So the time of the server is asked for now and then,
together with a fill lease, and whoever differs says so.
"""

from time import monotonic, time
from typing import Any

import structlog

log = structlog.get_logger(__name__)

TOLERANCE = 2.0
"""Seconds by which this clock may differ from the server's. Entries are fresh that much longer or
shorter; those from further ahead than `recipe.AHEAD` are not believed at all."""
_INTERVAL = 60.0
"""Seconds between two looks, and between two lines in the log."""


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

    def asked(self) -> float:
        """Call this before the server is asked; returns the time."""
        self._next = monotonic() + _INTERVAL
        return time()

    def told(self, asked: float, reply: Any) -> None:
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

    def saw_future(self) -> None:
        """An entry was read that will only be made some time from now."""
        self._future_until = monotonic() + _INTERVAL
        self._log(self.problem)

    @property
    def problem(self) -> str | None:
        """What is wrong, for the health page; None while nothing is."""
        if abs(self._skew) > TOLERANCE:
            direction = "ahead of" if self._skew > 0 else "behind"
            return f"this host's clock is {abs(self._skew):.1f} s {direction} the Redis server's"
        if monotonic() < self._future_until:
            return "entries come from the future: the clocks of this service's hosts differ"
        return None

    def _log(self, problem: str | None) -> None:
        if monotonic() >= self._logged_until:
            self._logged_until = monotonic() + _INTERVAL
            log.warning(
                "cache.clocks_differ",
                problem=problem,
                remedy="synchronize the clocks of all hosts, as with NTP",
            )
