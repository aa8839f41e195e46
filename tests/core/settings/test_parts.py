"""The parts of the settings: each alone, and what they change and add to each other."""

import os
from pathlib import Path
from types import new_class
from unittest.mock import patch

import pytest

from app.settings.access import AccessSettings
from app.settings.cache import CacheSettings
from app.settings.database import mysql, postgres, s3, sqlite
from app.settings.events import EventSettings
from app.settings.loading import SettingsError, load
from app.settings.locks import LockSettings
from app.settings.redis import RedisSettings
from app.settings.redlock import RedlockSettings
from app.settings.service import ServiceSettings
from app.settings.sessions import SessionSettings
from app.settings.signing import SigningSettings

Part = type[ServiceSettings]

PRODUCTION = {"ENVIRONMENT": "production"}

# In the order in which services have them.
FEATURES: tuple[Part, ...] = (
    AccessSettings,
    EventSettings,
    SessionSettings,
    RedlockSettings,
    LockSettings,
    SigningSettings,
    CacheSettings,
    RedisSettings,
    ServiceSettings,
)
DATABASES: dict[str, Part] = {
    "postgres": postgres.DatabaseSettings,
    "mysql": mysql.DatabaseSettings,
    "sqlite": sqlite.DatabaseSettings,
    "s3": s3.DatabaseSettings,
}
# For those that may be on another host: what production takes, and what it refuses.
SAFE = {
    "postgres": {
        "DATABASE_URL": "postgresql+asyncpg://service:secret@db.example/orders?ssl=verify-full"
    },
    "mysql": {
        "DATABASE_URL": "mysql+asyncmy://service:secret@db.example/orders?ssl_ca=/etc/ca.pem"
    },
    "s3": {
        "S3_ENDPOINT_URL": "https://db.example",
        "S3_ACCESS_KEY_ID": "service",
        "S3_SECRET_ACCESS_KEY": "secret",
    },
}
UNSAFE = {
    "postgres": {"DATABASE_URL": "postgresql+asyncpg://service:postgres@db.example/orders"},
    "mysql": {"DATABASE_URL": "mysql+asyncmy://service:mysql@db.example/orders"},
    "s3": {
        "S3_ENDPOINT_URL": "http://db.example",
        "S3_ACCESS_KEY_ID": "service",
        "S3_SECRET_ACCESS_KEY": "minioadmin",
    },
}
REDIS_SETTINGS = [
    pytest.param(RedisSettings, "REDIS_URL", 1, id="redis"),
    pytest.param(SessionSettings, "SESSION_REDIS_URL", 1, id="sessions"),
    pytest.param(RedlockSettings, "REDLOCK_URLS", 3, id="redlock"),
]


@pytest.fixture(autouse=True)
def no_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def problems(*parts: Part, **variables: str) -> list[str]:
    """What a service of these parts says about these variables; nothing where it starts."""
    # The defaults that a service's own class has.
    given = {"SERVICE_NAME": "orders", "ACCESS_AUDIENCE": "orders"}
    if s3.DatabaseSettings in parts:
        given["DATABASE_URL"] = "s3://orders"
    with patch.dict(os.environ, given | variables, clear=True):
        try:
            load(new_class("Settings", parts))
        except SettingsError as error:
            return [line.strip() for line in str(error).splitlines()[1:]]
    return []


@pytest.mark.parametrize(
    "part", [*FEATURES, *DATABASES.values()], ids=lambda part: part.__module__.split(".", 2)[2]
)
def test_a_part_alone_suits_a_laptop(part: Part) -> None:
    assert problems(part) == []


def test_all_parts_go_together() -> None:
    for database in DATABASES.values():
        assert problems(database, *FEATURES) == []


def test_each_part_has_its_say_in_production() -> None:
    said = problems(
        DATABASES["mysql"],
        *FEATURES,
        **PRODUCTION,
        DEBUG="true",
        REDIS_URL="redis://redis.example",
        REDLOCK_URLS="redis://a.example,rediss://b.example,redis://localhost",
        SESSION_REDIS_URL="redis://sessions.example",
        **UNSAFE["mysql"],
    )
    found = [next(word for word in line.split() if word.isupper()) for line in said]
    assert found == [
        "DEBUG",
        "REDIS_URL",
        "CACHE_SIGNING_KEYS",
        "REDLOCK_URLS",
        "SESSION_REDIS_URL",
        "SESSION_KEYS",
        "ACCESS_SECRETS",
        "ACCESS_JWKS",
        "ACCESS_ISSUER",
        "DATABASE_URL",
        "DATABASE_URL",
    ]


@pytest.mark.parametrize("name", SAFE)
def test_a_database_elsewhere_needs_a_secret_and_tls(name: str) -> None:
    database = DATABASES[name]
    assert problems(database, **PRODUCTION, **SAFE[name]) == []
    secret, tls = sorted(problems(database, **PRODUCTION, **UNSAFE[name]), key=asks_for_tls)
    assert asks_for_tls(tls)
    assert not asks_for_tls(secret)
    own = {"PRIVATE_HOSTS": "redis, db.example"}
    assert problems(database, **PRODUCTION, **UNSAFE[name], **own) == [secret]


def asks_for_tls(problem: str) -> bool:
    return "TLS" in problem


@pytest.mark.parametrize(
    ("urls", "complaint"),
    [
        ("redis://a,redis://b", "needs 3, 5 or 7 servers, not 2"),
        ("redis://a,redis://b,redis+cluster://c", "needs independent servers"),
        ("redis://a,redis://b,http://c", "REDLOCK_URLS"),
    ],
)
def test_redlock_needs_independent_servers(urls: str, complaint: str) -> None:
    (problem,) = problems(RedlockSettings, REDLOCK_URLS=urls)
    assert complaint in problem


@pytest.mark.parametrize(("part", "name", "servers"), REDIS_SETTINGS)
def test_with_access_control_no_url_has_a_login(part: Part, name: str, servers: int) -> None:
    urls = {name: ",".join(["redis://user:word@redis"] * servers)}
    assert problems(part, **urls) == []
    (problem,) = problems(AccessSettings, part, **urls)
    assert problem == f"{name}: has a login, but every role has its own: leave it out"


@pytest.mark.parametrize(("part", "name", "servers"), REDIS_SETTINGS)
def test_with_access_control_no_url_needs_a_password(part: Part, name: str, servers: int) -> None:
    urls = {name: ",".join(["rediss://redis.example"] * servers)}
    asked = f"{name} needs a password: rediss://user:password@host"
    assert asked in problems(part, **PRODUCTION, **urls)
    with_access = problems(AccessSettings, part, **PRODUCTION, **urls)
    assert not any(name in problem for problem in with_access)
    assert any("ACCESS_SECRETS" in problem for problem in with_access)
