"""The cache: policies, invalidation, and answers also when Redis is away."""

from app.core.cache.cache import Cache
from app.core.cache.function import CachedFunction
from app.core.cache.http import CachedRoute, HttpCacheMiddleware
from app.core.cache.kept import Kept, do_not_keep, keep
from app.core.cache.keys import UnkeyableType
from app.core.cache.outage import CacheUnavailable
from app.core.cache.policy import CachePolicy
from app.core.cache.warming import HotCall, Warmable, WarmingReport

__all__ = [
    "Cache",
    "CachePolicy",
    "CacheUnavailable",
    "CachedFunction",
    "CachedRoute",
    "HotCall",
    "HttpCacheMiddleware",
    "Kept",
    "UnkeyableType",
    "Warmable",
    "WarmingReport",
    "do_not_keep",
    "keep",
]
