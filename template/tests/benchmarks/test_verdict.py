"""What is said about the numbers follows from them."""

import pytest

from benchmarks.client import Answer
from benchmarks.measure import Outage, Route, Stampede
from benchmarks.verdict import events, hit_ratio_to_pay, reads_to_pay, sentence, table


def route(*, computed: float, miss: float, hit: float, path: str = "/things/{thing_id}") -> Route:
    """Times in milliseconds."""
    return Route(path, computed / 1000, miss / 1000, hit / 1000, 1 / computed, 1 / hit)


@pytest.mark.parametrize(
    ("computed", "miss", "hit", "reads"),
    [
        (100, 103, 1, 2),  # the second read makes up for the first one
        (4, 8, 1, 3),  # 4 + 4 + 4 against 8 + 1 + 1
        (1.2, 4, 0.9, 11),
        (1, 3, 1, None),
        (1, 3, 2, None),
    ],
)
def test_how_often_an_entry_has_to_be_read(
    computed: float, miss: float, hit: float, reads: int | None
) -> None:
    measured = route(computed=computed, miss=miss, hit=hit)
    assert reads_to_pay(measured) == reads
    if reads is not None:
        assert miss + (reads - 1) * hit <= reads * computed
        assert hit_ratio_to_pay(measured) == 1 - 1 / reads


def test_the_sentence_when_it_pays() -> None:
    said = sentence([route(computed=4, miss=8, hit=1)])
    assert "Caching pays here: a hit of /things/{thing_id} takes 25% of the time" in said
    assert "fewer than 67% of the reads are hits" in said


def test_the_sentence_when_it_pays_on_some_routes() -> None:
    fast = route(computed=1, miss=3, hit=1, path="/fast")
    said = sentence([fast, route(computed=4, miss=8, hit=1)])
    assert "Caching pays on /things/{thing_id} only" in said


def test_the_sentence_when_it_does_not_pay() -> None:
    measured = [route(computed=1, miss=3, hit=1)]
    assert sentence(measured).startswith("Caching does not pay here")
    assert table(measured).endswith("never")


def test_failures_and_loads_are_told() -> None:
    answers = [Answer(0.1, 0.02, 200), Answer(0.2, 0.9, 503), Answer(0.3, 5.0, 0)]
    said = events(Stampede(7, 0.3, 0.2), Outage(answers, (0, 1), (2, 3)))
    assert "computed 7 times" in said
    assert "2 of 3 requests failed, slowest answer 5000 ms" in said
