"""The cache."""

from app.core.cache import Cache, CacheUnavailable
from app.core.redis import Probe
from app.core.serializers import Serializer
from app.core.service import Service
from app.settings.cache import CacheSettings


def install_cache(service: Service, settings: CacheSettings, serializer: Serializer) -> Cache:
    """Install the cache on the Redis of the service; features get their policies from it."""
    near = settings.near_cache_bytes if settings.cache_enabled else 0
    redis = service.redis("cache", keeps=["cache"])
    cache = Cache(
        redis,
        service=service.name,
        serializer=serializer,
        enabled=settings.cache_enabled,
        read_timeout=settings.cache_read_timeout,
        breaker_threshold=settings.cache_breaker_threshold,
        max_loads=settings.cache_max_loads,
        max_refreshes=settings.cache_max_refreshes,
        epoch=settings.cache_epoch,
        near_bytes=near,
        near_client=service.redis("near", pool_size=1) if near else None,
    )
    service.open(cache)
    if settings.cache_enabled and settings.cache_warm_up:
        service.after_start("cache warm-up", cache.warm)
    service.transient(CacheUnavailable)
    probe = Probe(
        part="cache",
        client=redis,
        key=cache.keyspace.probe,
        subscribe=cache.keyspace.channel if near else None,
    )
    service.check("cache", cache.check, probe=probe)
    return cache
