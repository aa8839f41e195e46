"""Medians of ratios, and rounds that take turns."""

import pytest

from benchmarks.figures import interleaved, percentile, ratios, spread


def test_a_ratio_is_taken_within_a_round() -> None:
    """The machine was ten times slower in the second round: that is not in the ratio."""
    found = ratios([200, 20, 200], [100, 10, 100])
    assert (found.median, found.low, found.high) == (2, 2, 2)


def test_a_spread_is_the_middle_half() -> None:
    found = spread([5, 1, 2, 3, 4])
    assert (found.low, found.median, found.high) == (2, 3, 4)
    assert str(spread([1.5])) == "1.50"


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 50), (0.99, 99), (1, 100)])
def test_percentiles(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_every_round_measures_all_and_orders_change() -> None:
    calls: list[str] = []

    def measure(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = interleaved(5, ["a", "b", "c"], measure)
    assert {name: len(values) for name, values in found.items()} == {"a": 5, "b": 5, "c": 5}
    rounds = [tuple(calls[start : start + 3]) for start in range(0, 15, 3)]
    assert all(set(one) == {"a", "b", "c"} for one in rounds)
    assert len(set(rounds)) > 1
