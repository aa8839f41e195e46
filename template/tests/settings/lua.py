"""Locks on a Redis of their own."""

from tests.settings.part import Part

PART = Part(
    unsafe=[("LOCK_REDIS_URL", "redis://redis.example/0", "LOCK_REDIS_URL needs TLS")],
)
