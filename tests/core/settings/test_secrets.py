"""Production refuses secrets and passwords that are known, weak or shared."""

from base64 import b64encode
from itertools import combinations
from secrets import token_bytes, token_hex, token_urlsafe
from urllib.parse import quote

import pytest

from app.core.access import DEVELOPMENT_SECRET
from app.core.sessions.keyring import DEVELOPMENT_SECRET as DEVELOPMENT_KEY
from app.settings.access import AccessSettings
from app.settings.lua import LuaSettings
from app.settings.redis import RedisSettings
from app.settings.service import ServiceSettings
from app.settings.sessions import SessionSettings
from app.settings.signing import SigningSettings
from tests.core.settings.parts import DATABASES, PRODUCTION, REDIS_SETTINGS, Part, problems

RANDOM = "qX7vN2mKc9RtYw4LzB8hJd3FgPs6UaEe1oTiVxW5QkM="
PUBLISHED = [DEVELOPMENT_SECRET, DEVELOPMENT_KEY]
WEAK = [
    *PUBLISHED,
    DEVELOPMENT_SECRET.upper(),
    f"{DEVELOPMENT_KEY}-2",
    "a" * 32,
    "a" * 64,
    "ab" * 30,
    "0123456789abcdef" * 3,
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "9876543210" * 5,
    "Xk7mQ2pL9aRt" * 4,
    "112233445566778899aabbccddeeffgghhiijjkkllmmnn",
    "please-change-this-before-you-go-to-production-42",
    "an-example-of-a-long-enough-secret-for-sessions",
]
SECRETS = [
    pytest.param(SessionSettings, "SESSION_KEYS", id="sessions"),
    pytest.param(AccessSettings, "ACCESS_SECRETS", id="access"),
    pytest.param(SigningSettings, "CACHE_SIGNING_KEYS", id="signing"),
    pytest.param(ServiceSettings, "METRICS_TOKEN", id="metrics"),
]


@pytest.mark.parametrize(("part", "name"), SECRETS)
@pytest.mark.parametrize("secret", WEAK)
def test_a_weak_or_published_secret_is_refused(part: Part, name: str, secret: str) -> None:
    assert any(name in problem for problem in problems(part, **PRODUCTION, **{name: secret}))
    if part is not ServiceSettings:  # all others have several
        ring = {name: f"{RANDOM},{secret}"}
        assert any(name in problem for problem in problems(part, **PRODUCTION, **ring))


@pytest.mark.parametrize(("part", "name"), SECRETS)
def test_a_random_secret_is_taken(part: Part, name: str) -> None:
    made = [token_urlsafe(32), token_hex(32), token_hex(22), b64encode(token_bytes(32)).decode()]
    for secret in [RANDOM, *made]:
        found = problems(part, **PRODUCTION, **{name: secret})
        assert not any(name in problem for problem in found), secret


@pytest.mark.parametrize(
    ("one", "other"),
    [*combinations([parameter.values[1] for parameter in SECRETS], 2)],
)
def test_a_secret_serves_one_purpose(one: str, other: str) -> None:
    parts = (AccessSettings, SessionSettings, SigningSettings)
    other_secret = token_urlsafe(32)
    ring = f"{other_secret},{RANDOM}" if one != "METRICS_TOKEN" else RANDOM
    twice = problems(*parts, **PRODUCTION, **{one: ring, other: RANDOM})
    [said] = [problem for problem in twice if "have the same secret" in problem]
    assert {one, other} < set(said.split())
    apart = problems(*parts, **PRODUCTION, **{one: RANDOM, other: other_secret})
    assert not any("same secret" in problem for problem in apart)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (RedisSettings, "REDIS_URL", "rediss://user:{}@a.example"),
        (SessionSettings, "SESSION_REDIS_URL", "rediss://user:{}@a.example"),
        (LuaSettings, "LOCK_REDIS_URL", "rediss://user:{}@a.example"),
        (DATABASES["postgres"], "DATABASE_URL", "postgresql+asyncpg://user:{}@a.example/orders"),
        (DATABASES["mysql"], "DATABASE_URL", "mysql+asyncmy://user:{}@a.example/orders"),
        (DATABASES["s3"], "S3_SECRET_ACCESS_KEY", "{}"),
    ],
)
def test_a_password_is_no_secret_of_the_service(part: Part, name: str, value: str) -> None:
    others = {"S3_ACCESS_KEY_ID": "service"} if name.startswith("S3") else {}
    given = {**PRODUCTION, **others, name: value.format(quote(RANDOM, safe=""))}
    given[name] = value.format(RANDOM) if name.startswith("S3") else given[name]
    found = problems(part, **given, METRICS_TOKEN=RANDOM)
    assert f"METRICS_TOKEN and {name} have the same secret: give each its own" in found
    assert not any("same" in line for line in problems(part, **given, METRICS_TOKEN=RANDOM[::-1]))


def test_servers_may_share_a_password() -> None:
    url = "rediss://user:secret@redis.example"
    parts = (SessionSettings, LuaSettings)
    urls = {"REDIS_URL": url, "LOCK_REDIS_URL": url, "SESSION_REDIS_URL": url}
    found = problems(*parts, **PRODUCTION, **urls, SESSION_KEYS=RANDOM)
    assert found == []


@pytest.mark.parametrize(("part", "name", "servers"), REDIS_SETTINGS)
@pytest.mark.parametrize(
    "login",
    [
        *("user:redis", "user:%72edis", "user:p%61ssword", ":FooBared", "app:app", ":change-me"),
        *(":password-1234", ":an-example-password-to-change-me"),
    ],
)
def test_a_default_password_is_refused_however_it_is_written(
    part: Part, name: str, servers: int, login: str
) -> None:
    for host in ("redis.example", "127.0.0.1"):
        urls = {name: ",".join([f"rediss://{login}@{host}"] * servers)}
        found = problems(part, **PRODUCTION, **urls)
        assert (
            f"{name} needs a password that is not a default: rediss://user:password@host" in found
        )


@pytest.mark.parametrize(("part", "name", "servers"), REDIS_SETTINGS)
@pytest.mark.parametrize("password", ["orders-redis-password-9fK2vQ8sLmZ4", "Example_9fK2vQ8sLmZ4"])
def test_a_strong_password_may_have_any_word_in_it(
    part: Part, name: str, servers: int, password: str
) -> None:
    urls = {name: ",".join([f"rediss://user:{password}@redis.example"] * servers)}
    assert not any("password" in line for line in problems(part, **PRODUCTION, **urls))


@pytest.mark.parametrize("url", ["sentinel://localhost/primary", "cluster://127.0.0.1,[::1]:6380"])
def test_seeds_on_this_host_say_nothing_of_the_servers(url: str) -> None:
    needs_password, needs_tls = problems(RedisSettings, **PRODUCTION, REDIS_URL=f"redis+{url}")
    assert "needs a password" in needs_password
    assert "needs TLS" in needs_tls
    assert problems(RedisSettings, **PRODUCTION, REDIS_URL="redis://localhost") == []
    with_login = f"rediss+{url}".replace("://", "://service:secret@")
    assert problems(RedisSettings, **PRODUCTION, REDIS_URL=with_login) == []
    private = {"PRIVATE_HOSTS": "localhost,127.0.0.1,::1"}
    plain = with_login.replace("rediss", "redis")
    assert problems(RedisSettings, **PRODUCTION, **private, REDIS_URL=plain) == []
    known = "rediss+sentinel://:secret@a.example/primary?sentinel_password=%72edis"
    (sentinels,) = problems(RedisSettings, **PRODUCTION, REDIS_URL=known)
    assert "sentinel_password" in sentinels
