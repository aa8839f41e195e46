"""Sessions."""

from app.core.sessions.keyring import DEVELOPMENT_SECRET
from tests.settings.part import Part

KEY = "pN4mWb9Tz1Rq7XcV0yKfJ3dHs8LgUa5EoI2tQvBxMnY="

PART = Part(
    safe={"SESSION_KEYS": KEY},
    wrong=[
        ("SESSION_KEYS", ""),
        ("SESSION_KEYS", "one,,two"),
        ("SESSION_KEYS", "one,one"),
        ("SESSION_REDIS_URL", "http://redis"),
        ("SESSION_IDLE_TIMEOUT", "0"),
        ("SESSION_ABSOLUTE_TIMEOUT", "60"),
        ("SESSION_ABSOLUTE_TIMEOUT", "inf"),
        ("SESSION_TRUSTED_ORIGINS", "app.example"),
        ("CORS_CREDENTIALS", "true"),  # for no origin
    ],
    unsafe=[
        ("SESSION_KEYS", DEVELOPMENT_SECRET, "key 1 of SESSION_KEYS is the one for dev"),
        ("SESSION_KEYS", "short", "key 1 of SESSION_KEYS has 5 characters"),
        ("SESSION_KEYS", f"{KEY},{'ab' * 30}", "key 2 of SESSION_KEYS repeats"),
        ("METRICS_TOKEN", KEY, "METRICS_TOKEN and SESSION_KEYS have the same"),
        ("SESSION_TRUSTED_ORIGINS", "http://app.example", "SESSION_TRUSTED_ORIGINS needs https"),
        ("SESSION_REDIS_URL", "redis://redis.example/0", "SESSION_REDIS_URL needs TLS"),
    ],
    hidden=[("SESSION_KEYS", "hunter2")],
)
