"""Sessions."""

from app.core.error_answers import try_again_later
from app.core.openapi import NEEDS_LOGIN
from app.core.redis import RedisClient
from app.core.service import Layer, Service
from app.core.sessions import (
    SessionMiddleware,
    Sessions,
    get_session,
    get_session_to_log_in,
    get_user,
)
from app.settings.sessions import SessionSettings


def install_sessions(service: Service, settings: SessionSettings) -> RedisClient:
    """Install sessions; returns the client of the Redis that they are in."""
    redis = service.redis(
        "sessions",
        keeps=["sessions"],
        url=settings.session_url,
        pool_size=settings.session_pool_size,
    )
    sessions = Sessions(
        redis,
        prefix=f"{service.name}:session",
        keys=settings.session_key_ring,
        idle_timeout=settings.session_idle_timeout,
        absolute_timeout=settings.session_absolute_timeout,
        trusted_origins=settings.session_origins,
        cookie=f"{service.name}-session",
        plain_on_loopback=settings.environment != "production",
    )
    for scheme in (get_session, get_session_to_log_in):
        scheme.describe(sessions.cookie.name)
    NEEDS_LOGIN.add(get_user)
    service.middleware(
        SessionMiddleware,
        layer=Layer.INSIDE_CACHE,
        sessions=sessions,
        unavailable=try_again_later,
    )
    service.check("sessions", sessions.check, probe=sessions.probe)
    return redis
