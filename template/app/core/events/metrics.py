"""Metrics of events. Labels are names of services and of events: both are few."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from app.core.observability.metrics import begin_at_zero

published = Counter(
    "events_published",
    "Events by what became of them: sent, or dropped because too many waited for Redis.",
    ["event", "outcome"],
)
waiting = Gauge(
    "events_waiting", "Events that Redis has not taken yet.", multiprocess_mode="livesum"
)
waiting.set(0)
handled = Counter(
    "events_handled",
    "Events by outcome: ok, retried, failed (given up), invalid (not as the model says), unknown.",
    ["publisher", "outcome"],
)
lost = Counter(
    "events_lost", "Times at which events were lost before they were read.", ["publisher"]
)
lag_seconds = Histogram(
    "events_lag_seconds",
    "From the publication of an event to the end of its handling.",
    ["publisher"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600),
)
disconnects = Counter("events_disconnects", "Pub/sub connections that were lost.")


@cache
def expect_event(name: str) -> None:
    """Begin the series of an event that is published here."""
    begin_at_zero(published, [name], ("sent", "dropped"))


def expect_publisher(publisher: str) -> None:
    """Begin the series of a service whose events are read here."""
    begin_at_zero(handled, [publisher], ("ok", "retried", "failed", "invalid", "unknown"))
    begin_at_zero(lost, [publisher])
