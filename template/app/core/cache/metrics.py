"""What the cache tells Prometheus. The only label that names anything is the policy."""

from prometheus_client import Counter, Gauge, Histogram

from app.core.observability.metrics import BufferedMetrics, begin_at_zero

buffered = BufferedMetrics()
"""Counts reads. It comes before the metrics, because it has to tell them before they are asked."""

reads = Counter(
    "cache_reads",
    "Reads by how they were answered: near, hit, stale, miss, stale_error.",
    ["policy", "outcome"],
)
misses = Counter("cache_misses", "Misses by reason.", ["policy", "reason"])
loads = Counter("cache_loads", "Loader runs: ok, error, timeout, cancelled.", ["policy", "outcome"])
load_seconds = Histogram("cache_load_seconds", "How long loaders ran.", ["policy"])
refreshes = Counter(
    "cache_refreshes",
    "Background refreshes: done, denied (another process does it), failed, dropped (too many).",
    ["policy", "outcome"],
)
stores = Counter(
    "cache_stores",
    "Stores: stored, refused (invalidated meanwhile), unstorable, failed, over_budget.",
    ["policy", "outcome"],
)
lease_wait_seconds = Histogram(
    "cache_lease_wait_seconds", "Waiting for another process to fill an entry.", ["policy"]
)
invalidations = Counter(
    "cache_invalidations", "Invalidations: sent, or queued while Redis was away.", ["outcome"]
)
queued_invalidations = Gauge(
    "cache_queued_invalidations",
    "Invalidations that wait for Redis to come back.",
    multiprocess_mode="livesum",
)
breaker_open = Gauge(
    "cache_breaker_open", "1 while the cache does not ask Redis.", multiprocess_mode="livemax"
)
read_seconds = Histogram(
    "cache_read_seconds",
    "How long Redis took to answer a batch of reads.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
)

begin_at_zero(invalidations, ("sent", "queued"))
queued_invalidations.set(0)
breaker_open.set(0)


def expect_policy(policy: str) -> None:
    """Begin the series of a policy at zero; its codecs do that for reads and misses."""
    begin_at_zero(loads, [policy], ("ok", "error", "timeout", "cancelled"))
    begin_at_zero(refreshes, [policy], ("done", "denied", "failed", "dropped"))
    begin_at_zero(stores, [policy], ("stored", "refused", "unstorable", "failed"))
    begin_at_zero(lease_wait_seconds, [policy])
