"""Locks on one Redis."""

from app.core.locks import Locks
from app.core.locks.node import Node
from app.core.service import Service
from app.settings.lua import LuaSettings
from app.wiring.locks import add_locks


def install_locks(service: Service, settings: LuaSettings) -> Locks:
    """Install locks on a Redis of their own, or on that of the service."""
    redis = service.redis(
        "locks",
        keeps=["locks"],
        url=settings.lock_url,
        pool_size=settings.lock_pool_size,
        timeout=settings.lock_redis_timeout,
    )
    store = Node(redis, timeout=settings.lock_redis_timeout)
    return add_locks(service, store, production=settings.environment == "production")
