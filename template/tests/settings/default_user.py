"""Redis with a login in its URL."""

from tests.settings.part import Part

PART = Part(
    safe={"REDIS_URL": "rediss://service:secret@redis.example:6380/0"},
    unsafe=[
        ("REDIS_URL", "rediss://redis.example/0", "REDIS_URL needs a password"),
        ("REDIS_URL", "rediss://user:%72edis@redis.example/0", "REDIS_URL needs a password that"),
        ("REDIS_URL", "redis+sentinel://localhost/primary", "REDIS_URL needs a password"),
        ("REDIS_URL", "redis://:secret@redis.example/0", "REDIS_URL needs TLS"),
    ],
    hidden=[("REDIS_URL", "redis://user:hunter2@host/0")],
)
