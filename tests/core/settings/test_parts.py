"""The parts of the settings: each alone, and what they change and add to each other."""

import pytest

from app.settings.access import AccessSettings
from app.settings.redlock import RedlockSettings
from tests.core.settings.parts import (
    DATABASES,
    FEATURES,
    PRODUCTION,
    REDIS_SETTINGS,
    SAFE,
    UNSAFE,
    Part,
    problems,
)


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
        ("redis://a,redis://b,redis+sentinel://c/orders", "needs independent servers"),
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
