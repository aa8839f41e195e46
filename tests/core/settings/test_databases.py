"""URLs of databases: what they say in the words of the driver, and what is refused."""

from pathlib import Path

import pytest

from tests.core.settings.parts import DATABASES, PRODUCTION, SAFE, loaded, problems

POSTGRES = "postgresql+asyncpg://service:secret@db.example/orders"
MYSQL = "mysql+asyncmy://service:secret@db.example/orders"
SQLITE = "sqlite+aiosqlite:///file:app.db"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (f"{POSTGRES}?ssl=prefer", f"{POSTGRES}?ssl=prefer"),
        (f"{POSTGRES}?sslmode=verify-full", f"{POSTGRES}?ssl=verify-full"),
        (f"{POSTGRES}?sslmode=require&channel_binding=prefer", f"{POSTGRES}?ssl=require"),
        (f"{POSTGRES}?gssencmode=disable", POSTGRES),
        (f"{POSTGRES}?sslrootcert=system", f"{POSTGRES}?ssl=verify-full"),
        (f"{POSTGRES}?sslrootcert=system&sslmode=verify-full", f"{POSTGRES}?ssl=verify-full"),
        (f"{POSTGRES}?target_session_attrs=primary", f"{POSTGRES}?target_session_attrs=primary"),
        (
            f"{POSTGRES}?host=a:1&host=b:2",
            f"{POSTGRES}?host=a%3A1&host=b%3A2&target_session_attrs=read-write",
        ),
    ],
)
def test_what_libpq_calls_otherwise_is_translated(given: str, meant: str) -> None:
    part = DATABASES["postgres"]
    for url in (given, meant):  # and what was read once is not read otherwise the second time
        read = loaded(part, DATABASE_URL=url)
        assert read.model_dump()["database_url"].get_secret_value() == meant


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        (f"{POSTGRES}?sslmode=require&channel_binding=require", "ssl=verify-full"),
        (f"{POSTGRES}?options=-c%20search_path%3Dx", "ALTER ROLE"),
        (f"{POSTGRES}?application_name=orders", "application_name="),
        (f"{POSTGRES}?connect_timeout=5", "DATABASE_TIMEOUT"),
        (f"{POSTGRES}?pgbouncer=true", "DATABASE_POOLER=transaction"),
        (f"{POSTGRES}?statement_cache_size=0", "DATABASE_POOLER=transaction"),
        (f"{POSTGRES}?sslrootcert=/etc/ca.pem", "PGSSLROOTCERT"),
        (f"{POSTGRES}?sslrootcert=system&sslmode=require", "ssl=verify-full"),
        (f"{POSTGRES}?sslrootcert=system&ssl=verify-ca", "ssl=verify-full"),
        (f"{POSTGRES}?password=secret", "in front of the ?"),
        (f"{POSTGRES}?ssl=true", "verify-full"),
        (f"{POSTGRES}?ssl=verify-full&ssl=disable", "ssl= twice"),
        (f"{POSTGRES}?ssl=verify-full&sslmode=disable", "both ssl= and sslmode="),
        (f"{POSTGRES}?target_session_attrs=master", "read-write"),
        (f"{POSTGRES}?host=a&host=b", "ports"),
        (f"{POSTGRES}?keepalives=1", "keepalives="),
        (f"{MYSQL}?ssl-mode=REQUIRED", "ssl_ca="),
        (f"{MYSQL}?sslmode=require", "ssl_ca="),
        (f"{MYSQL}?ssl=true", "ssl_ca="),
        (f"{MYSQL}?host=elsewhere", "in front of the ?"),
        (f"{MYSQL}?read_timeout=3", "DATABASE_TIMEOUT"),
        (f"{MYSQL}?useUnicode=true", "useUnicode="),
        (f"{SQLITE}?mode=ro", "uri=true"),
        (f"{SQLITE}?timeout=3", "DATABASE_TIMEOUT"),
        (f"{SQLITE}?foreign_keys=1", "foreign_keys="),
    ],
)
def test_what_the_driver_does_not_take_is_refused_at_start(url: str, remedy: str) -> None:
    dialect = url.partition("+")[0].replace("postgresql", "postgres")
    (problem,) = problems(DATABASES[dialect], DATABASE_URL=url)
    assert problem.startswith("DATABASE_URL: ")
    assert remedy in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    "ssl", ["ssl=require", "sslmode=require", "ssl=prefer", "ssl=allow", "ssl=disable", ""]
)
def test_tls_that_verifies_nobody_is_none_in_production(ssl: str) -> None:
    part = DATABASES["postgres"]
    (problem,) = problems(part, **PRODUCTION, DATABASE_URL=f"{POSTGRES}?{ssl}")
    assert "verify-full" in problem
    trusted = {"DATABASE_URL": f"{POSTGRES}?{ssl}", "PRIVATE_HOSTS": "db.example"}
    assert problems(part, **PRODUCTION, **trusted) == []


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("postgres", f"{POSTGRES}?ssl=verify-ca"),
        ("mysql", f"{MYSQL}?ssl_ca=/etc/ca.pem&ssl_check_hostname=false"),
    ],
)
def test_a_certificate_for_any_host_is_doubted(name: str, url: str) -> None:
    (doubt,) = loaded(DATABASES[name], **PRODUCTION, DATABASE_URL=url).doubts
    assert doubt.startswith("DATABASE_URL ")
    safe = SAFE[name]["DATABASE_URL"]
    assert loaded(DATABASES[name], **PRODUCTION, DATABASE_URL=safe).doubts == []


@pytest.mark.parametrize(
    ("name", "login"),
    [
        ("postgres", "service:postgres"),
        ("postgres", "service:%70ostgres"),
        ("postgres", "service"),
        ("mysql", "service:mysql"),
        ("mysql", "service:%6dysql"),
        ("mysql", "service"),
    ],
)
def test_a_default_password_is_one_however_it_is_written(name: str, login: str) -> None:
    url = SAFE[name]["DATABASE_URL"].replace("service:secret", login)
    (problem,) = problems(DATABASES[name], **PRODUCTION, DATABASE_URL=url)
    assert "password" in problem


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "PGSSLROOTCERT"),
        ({"PGSSLROOTCERT": "/nowhere.pem"}, "PGSSLROOTCERT"),
        ({}, None),
        ({"PGSSLROOTCERT": "system"}, None),
    ],
)
@pytest.mark.parametrize("ssl", ["verify-full", "verify-ca"])
def test_without_authorities_nothing_is_verified_and_nothing_starts(
    ssl: str, variables: dict[str, str], remedy: str | None
) -> None:
    part, url = DATABASES["postgres"], f"{POSTGRES}?ssl={ssl}"
    found = problems(part, **PRODUCTION, **variables, DATABASE_URL=url)
    assert len(found) == (remedy is not None)
    assert all(remedy in problem for problem in found if remedy)
    assert problems(part, **variables, DATABASE_URL=f"{POSTGRES}?ssl=require") == []


def test_the_system_is_not_replaced_by_another_authority(tmp_path: Path) -> None:
    own = tmp_path / "ca.pem"
    own.touch()
    url = f"{POSTGRES}?sslrootcert=system"
    (problem,) = problems(DATABASES["postgres"], DATABASE_URL=url, PGSSLROOTCERT=str(own))
    assert "PGSSLROOTCERT" in problem


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("&passfile=/run/secrets/pgpass", {}),
        ("", {"PGPASSFILE": "/run/secrets/pgpass"}),
        ("", {"PGPASSWORD": "secret"}),
        ("", {"PGSSLCERT": "/run/secrets/service.pem"}),
    ],
)
def test_a_login_may_be_outside_of_the_url(query: str, variables: dict[str, str]) -> None:
    part = DATABASES["postgres"]
    url = SAFE["postgres"]["DATABASE_URL"].replace("service:secret", "service") + query
    assert problems(part, **PRODUCTION, **variables, DATABASE_URL=url) == []
    (problem,) = problems(part, **PRODUCTION, PGPASSWORD="postgres", DATABASE_URL=url)
    assert "not the default" in problem


@pytest.mark.parametrize(
    "host", ["@db.example/orders?", "@/orders?host=db.example", "@127.0.0.1/orders?host=10.0.0.5:1"]
)
def test_the_host_is_the_one_that_the_driver_connects_to(host: str) -> None:
    url = f"postgresql+asyncpg://service:secret{host}"
    (problem,) = problems(DATABASES["postgres"], **PRODUCTION, DATABASE_URL=url)
    assert "TLS" in problem


def test_a_pooler_is_one_of_those_that_there_are() -> None:
    part = DATABASES["postgres"]
    assert problems(part, DATABASE_POOLER="transaction") == []
    (problem,) = problems(part, DATABASE_POOLER="statement")
    assert problem.startswith("DATABASE_POOLER: ")


@pytest.mark.parametrize(
    ("name", "url", "word"),
    [
        ("postgres", "mysql+asyncmy://a@b/c", "postgresql+asyncpg"),
        ("postgres", f"{POSTGRES}?connect_timeout=5", "DATABASE_TIMEOUT"),
        ("postgres", POSTGRES, "ssl=verify-full"),
        ("postgres", f"{POSTGRES}?ssl=verify-full".replace("secret", "postgres"), "password"),
        ("mysql", f"{MYSQL}?read_timeout=3", "DATABASE_TIMEOUT"),
        ("mysql", MYSQL, "ssl_ca="),
        ("mysql", f"{MYSQL}?ssl_ca=/etc/ca.pem".replace("secret", "mysql"), "password"),
    ],
)
def test_the_url_of_a_replica_is_looked_at_in_the_same_way(name: str, url: str, word: str) -> None:
    part, safe = DATABASES[name], SAFE[name]
    (problem,) = problems(part, **PRODUCTION, **safe, DATABASE_READ_URL=url)
    assert problem.removeprefix("DATABASE_READ_URL").startswith((":", " needs"))
    assert word in problem
    assert problems(part, **PRODUCTION, **safe, DATABASE_READ_URL=safe["DATABASE_URL"]) == []


def test_any_of_several_replicas_will_do() -> None:
    url = f"{POSTGRES}?host=a:1&host=b:2"
    read = loaded(DATABASES["postgres"], DATABASE_READ_URL=url).model_dump()
    assert read["database_read_url"].get_secret_value() == url


def test_a_doubt_about_a_replica_is_told_by_name() -> None:
    url = f"{POSTGRES}?ssl=verify-ca"
    safe = SAFE["postgres"]
    (doubt,) = loaded(DATABASES["postgres"], **PRODUCTION, **safe, DATABASE_READ_URL=url).doubts
    assert doubt.startswith("DATABASE_READ_URL ")
