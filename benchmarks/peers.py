"""Who is measured: every peer as its own documentation recommends it for production."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

COMMON = ("fastapi>=0.165", "uvicorn[standard]>=0.54", "hiredis>=3.5", "asyncpg>=0.32")
"""In every environment."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What is installed for a peer; the lower bounds are what was tested."""

    name: str
    requirements: tuple[str, ...]


SERVICE = Environment("service", ())
"""The generated service, with what its own pyproject.toml asks for."""
PLAIN = Environment("plain", ("redis>=8.1",))
CACHE2 = Environment("fastapi-cache2", ("fastapi-cache2[redis]>=0.2.2", "jinja2>=3.1"))
CASHEWS = Environment("cashews", ("cashews[redis]>=7.6",))
AIOCACHE = Environment("aiocache", ("aiocache[redis]>=0.12.3",))
REDIS_SDK = Environment("fastapi-redis-sdk", ("fastapi-redis-sdk>=0.9.1",))
CACHEX = Environment("fastapi-cachex", ("fastapi-cachex[redis]>=0.5.1",))
ALCAZABA = Environment("fastapi-alcazaba", ("fastapi-alcazaba[redis]>=0.2",))
POTTERY = Environment("pottery", ("pottery>=3.0.1",))
ENVIRONMENTS = (SERVICE, PLAIN, CACHE2, CASHEWS, AIOCACHE, REDIS_SDK, CACHEX, ALCAZABA, POTTERY)


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """One line of a table."""

    name: str
    module: str
    """In `apps/`, or of the service."""
    environment: Environment
    path: str = "/items/{item}"
    variables: Mapping[str, str] = field(default_factory=dict)

    def url_path(self, item: str, *, tags: int = 0) -> str:
        return self.path.format(item=item, tags=tags)

    def url_paths(self, items: Sequence[str], *, tags: int = 0) -> list[str]:
        return [self.url_path(item, tags=tags) for item in items]


_SERVICE = ("app.main", SERVICE)
OURS = Peer("ours, public", *_SERVICE, "/public/{item}")
OURS_PRIVATE = Peer("ours, per principal", *_SERVICE, "/private/{item}")
OURS_NEAR = Peer("ours, near cache", *_SERVICE, "/near/{item}")
OURS_STRICT = Peer("ours, nothing stale", *_SERVICE, "/strict/{item}")
OURS_KEPT = Peer("ours, nothing expires", *_SERVICE, "/public/{item}", {"TTL": "3600"})
OURS_TAGGED = Peer("ours, tagged", *_SERVICE, "/tagged/{tags}/{item}")
OURS_STATIC = Peer("static route in our service", *_SERVICE, "/static/{item}")

BARE = Peer("bare ASGI", "bare_asgi", PLAIN)
STATIC = Peer("static FastAPI route", "static_route", PLAIN)
NO_CACHE = Peer("no cache", "no_cache", PLAIN)
REDIS_GET = Peer("redis.asyncio GET", "redis_get", PLAIN)

CACHE2_REDIS = Peer("fastapi-cache2", "with_fastapi_cache2", CACHE2)
CACHE2_MEMORY = Peer(
    "fastapi-cache2, memory", "with_fastapi_cache2", CACHE2, variables={"VARIANT": "memory"}
)
CASHEWS_PLAIN = Peer("cashews", "with_cashews", CASHEWS)
CASHEWS_LOCK = Peer("cashews, lock", "with_cashews", CASHEWS, variables={"VARIANT": "lock"})
CASHEWS_EARLY = Peer("cashews, early", "with_cashews", CASHEWS, variables={"VARIANT": "early"})
CASHEWS_NEAR = Peer("cashews, client side", "with_cashews", CASHEWS, variables={"VARIANT": "near"})
AIOCACHE_PLAIN = Peer("aiocache", "with_aiocache", AIOCACHE)
AIOCACHE_STAMPEDE = Peer(
    "aiocache, stampede", "with_aiocache", AIOCACHE, variables={"VARIANT": "stampede"}
)
REDIS_SDK_PLAIN = Peer("fastapi-redis-sdk", "with_fastapi_redis_sdk", REDIS_SDK)
CACHEX_PLAIN = Peer("fastapi-cachex", "with_fastapi_cachex", CACHEX)
ALCAZABA_PLAIN = Peer("fastapi-alcazaba", "with_fastapi_alcazaba", ALCAZABA)
ALCAZABA_NEAR = Peer(
    "fastapi-alcazaba, two levels", "with_fastapi_alcazaba", ALCAZABA, variables={"VARIANT": "near"}
)

ON_REDIS = (
    REDIS_GET,
    CACHE2_REDIS,
    CASHEWS_PLAIN,
    CASHEWS_LOCK,
    CASHEWS_EARLY,
    AIOCACHE_PLAIN,
    AIOCACHE_STAMPEDE,
    REDIS_SDK_PLAIN,
    CACHEX_PLAIN,
    ALCAZABA_PLAIN,
)
IN_MEMORY = (CACHE2_MEMORY, CASHEWS_NEAR, ALCAZABA_NEAR)
