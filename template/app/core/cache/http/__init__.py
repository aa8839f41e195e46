"""Caching whole responses: the bytes of a hit are those of the miss."""

from app.core.cache.http.middleware import HttpCacheMiddleware
from app.core.cache.http.route import CachedRoute

__all__ = ["CachedRoute", "HttpCacheMiddleware"]
