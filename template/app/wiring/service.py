"""The service itself, and the Redis client for commands of its features."""

import structlog

from app.core import implementations
from app.core.observability.logging import configure_logging
from app.core.redis import ClientOptions, check_client
from app.core.service import Service
from app.settings.redis import RedisSettings

log = structlog.get_logger(__name__)


def make_service(settings: RedisSettings) -> Service:
    """Make a service that has a client for commands, and no other part."""
    configure_logging(settings.log_level, settings.log_format)
    for doubt in settings.doubts:
        log.warning("settings.doubtful", why=doubt)
    implementations.choose(fast=settings.fastpath)
    service = Service(
        settings.service_name,
        redis_url=settings.redis_url.get_secret_value(),
        redis_options=ClientOptions(
            name=settings.service_name,
            pool_size=settings.redis_pool_size,
            pool_timeout=settings.redis_pool_timeout,
            timeout=settings.redis_timeout,
            connect_timeout=settings.redis_timeout,
        ),
        redis_login=settings.redis_login,
        production=settings.environment == "production",
        processes=settings.web_concurrency,
    )
    redis = service.redis("commands")
    service.share(redis=redis)
    service.check("redis", lambda: check_client(redis))
    return service
