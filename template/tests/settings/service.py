"""What every service has."""

from tests.settings.part import Part

PART = Part(
    safe={"ENVIRONMENT": "production"},
    wrong=[
        ("REDIS_TIMEOUT", "soon"),
        ("REDIS_TIMEOUT", "0"),
        ("REDIS_TIMEOUT", "inf"),
        ("REDIS_POOL_SIZE", "0"),
        ("REDIS_URL", "http://redis"),
        ("REDIS_URL", "redis://host/x"),
        ("REDIS_URL", "redis://user:hunter2@host/x"),
        ("DATABASE_URL", "oracle://host/db"),
        ("DATABASE_URL", "oracle://user:hunter2@host/db"),
        ("ENVIRONMENT", "prod"),
        ("LOG_LEVEL", "LOUD"),
        ("WEB_CONCURRENCY", "-1"),
    ],
    unsafe=[
        ("DEBUG", "true", "DEBUG must be off"),
        ("METRICS_TOKEN", "short", "METRICS_TOKEN has 5 characters"),
        ("REDIS_URL", "redis://redis.example/0", "REDIS_URL needs TLS"),
    ],
    hidden=[("METRICS_TOKEN", "hunter2")],
)
