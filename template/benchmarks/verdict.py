"""Does caching pay? What the numbers say, in words."""

from collections.abc import Sequence
from math import ceil

from benchmarks.measure import CLIENTS, Outage, Route, Stampede

_FASTER = 1.1
"""A hit that is less than a tenth faster is not worth a cache."""


def reads_to_pay(route: Route) -> int | None:
    """How often an entry has to be read between two changes; None: it never pays.

    Of these reads the first is a miss, the others are hits, and together they take less time than
    as many computed answers.
    """
    if route.without < _FASTER * route.hit:
        return None
    return max(2, ceil((route.miss - route.hit) / (route.without - route.hit)))


def hit_ratio_to_pay(route: Route) -> float | None:
    """The same as a share of all reads (0 to 1)."""
    reads = reads_to_pay(route)
    return None if reads is None else 1 - 1 / reads


def table(routes: Sequence[Route]) -> str:
    """A line per route."""
    header = ("GET", "computed", "miss", "hit", "requests/s", "", "pays from")
    rows = [header]
    for route in routes:
        reads = reads_to_pay(route)
        rows.append(
            (
                route.path,
                _milliseconds(route.without),
                _milliseconds(route.miss),
                _milliseconds(route.hit),
                f"{route.without_rate:.0f} -> {route.hit_rate:.0f}",
                f"x {route.hit_rate / route.without_rate:.1f}",
                "never" if reads is None else f"{reads} reads per change",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def events(stampede: Stampede, outage: Outage) -> str:
    """The stampede and the outage, a line each."""
    times = "once" if stampede.loads == 1 else f"{stampede.loads} times"
    return (
        f"Stampede: {CLIENTS} clients at once, two processes, one missing entry: computed {times} "
        f"(without the cache {CLIENTS} times), slowest answer {_milliseconds(stampede.slowest)} "
        f"({_milliseconds(stampede.without_slowest)}).\n"
        f"Redis frozen, then killed: {outage.failed} of {len(outage.answers)} requests failed, "
        f"slowest answer {_milliseconds(outage.slowest)}."
    )


def sentence(routes: Sequence[Route]) -> str:
    """Whether caching pays here, and when it does not."""
    paying = [route for route in routes if reads_to_pay(route) is not None]
    if not paying:
        return (
            "Caching does not pay here: a hit takes about as long as computing the answer, so "
            "leave it out, except to be answered while the database is away."
        )
    best = max(paying, key=lambda route: route.without / route.hit)
    ratio = max(hit_ratio_to_pay(route) or 0 for route in paying)
    where = "here" if len(paying) == len(routes) else f"on {_listed(paying)} only"
    return (
        f"Caching pays {where}: a hit of {best.path} takes {best.hit / best.without:.0%} of the "
        f"time of a computed answer; it stops paying when fewer than {ratio:.0%} of the reads are "
        "hits, as on routes that are written as often as they are read, or for data that changes "
        "every millisecond."
    )


def _listed(routes: Sequence[Route]) -> str:
    return ", ".join(route.path for route in routes)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
