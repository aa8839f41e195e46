"""Locks on a majority of independent servers."""

from redis.asyncio import Redis

from app.core.locks import Locks
from app.core.locks.redlock import RedlockStore
from app.core.service import Service
from app.settings.redlock import RedlockSettings
from app.wiring.locks import add_locks


def install_locks(service: Service, settings: RedlockSettings) -> Locks:
    """Install locks on the servers that the settings name."""
    nodes = [
        service.redis(
            "locks",
            keeps=["locks"],
            url=url,
            pool_size=settings.lock_pool_size,
            timeout=settings.lock_redis_timeout,
        )
        for url in settings.redlock_servers
    ]
    store = RedlockStore(
        [node for node in nodes if isinstance(node, Redis)],  # the settings let no cluster pass
        node_timeout=settings.lock_node_timeout,
        settle_timeout=settings.lock_redis_timeout,
    )
    return add_locks(service, store, production=settings.environment == "production")
