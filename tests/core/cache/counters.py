"""The cache's metrics as Prometheus sees them."""

from prometheus_client import REGISTRY


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def reads(policy: str, outcome: str) -> float:
    return sample("cache_reads_total", policy=policy, outcome=outcome)


def misses(policy: str, reason: str) -> float:
    return sample("cache_misses_total", policy=policy, reason=reason)


def loads(policy: str, outcome: str) -> float:
    return sample("cache_loads_total", policy=policy, outcome=outcome)


def refreshes(policy: str, outcome: str) -> float:
    return sample("cache_refreshes_total", policy=policy, outcome=outcome)


def stores(policy: str, outcome: str) -> float:
    return sample("cache_stores_total", policy=policy, outcome=outcome)
