"""Numbers that can be compared: medians of ratios from rounds that measured all side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import quantiles
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and what the middle half of them lies between."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return shown(self.median)
        return f"{shown(self.median)} ({shown(self.low)}-{shown(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Round by round: what else the machine did then concerns both alike."""
    return spread([value / of for value, of in zip(values, base, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; infinity if there are none."""
    return sorted(values)[int(share * (len(values) - 1))] if values else float("inf")


def interleaved(
    rounds: int, contestants: Sequence[K], measure: Callable[[K], T]
) -> dict[K, list[T]]:
    """Measure all in each round, each time in another order."""
    measured: dict[K, list[T]] = {contestant: [] for contestant in contestants}
    order, random = list(contestants), Random(1)
    for _ in range(rounds):
        random.shuffle(order)
        for contestant in order:
            measured[contestant].append(measure(contestant))
    return measured


def shown(value: float) -> str:
    """Three digits that mean something."""
    if value == float("inf"):
        return "-"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def milliseconds(seconds: float) -> str:
    return shown(seconds * 1000)
