"""Series that exist before anything happens.

Prometheus compares a counter with what it was at the scrape before. A series that begins with its
first event has no value before, so `increase()` is 0 and no alert sees that event.
"""

from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter, Histogram


def begin_at_zero(metric: Counter | Histogram, *labels: Iterable[str]) -> None:
    """Have a series for each combination of the values of the labels.

    Args:
        metric: has these labels, in this order.
        labels: the values that each of them may have.
    """
    for values in product(*labels):
        metric.labels(*values)
