"""PostgreSQL by TLS: whose certificates are taken, and how the service logs in."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.database.postgres import create_database
from app.settings.database.postgres import DatabaseSettings
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG
from tests.support.tls import PostgresFront, postgres_tls_front

AUTHORITY = trustme.CA()
Ask = Callable[[str], Awaitable[object]]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
async def front(server: EmbeddedPostgres) -> AsyncIterator[PostgresFront]:
    """The server as clients by TLS see it: its certificate is for localhost, not 127.0.0.1."""
    certificate = AUTHORITY.issue_cert("localhost")
    async with postgres_tls_front(server.host, server.port, certificate, AUTHORITY) as front:
        yield front


@pytest.fixture
def url(server: EmbeddedPostgres, front: PostgresFront) -> str:
    return server.url.replace(f"127.0.0.1:{server.port}", f"localhost:{front.port}")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose system trusts the authority, and where nothing is said of PostgreSQL."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", written(AUTHORITY, tmp_path / "system.pem"))
    return tmp_path


def written(authority: trustme.CA, file: Path) -> str:
    file.parent.mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(file)
    return str(file)


def settings(url: str) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"service_name": "test", "database_url": url})


async def ask_as_the_service(url: str) -> object:
    given = settings(url)
    async with (
        create_database(
            given.database_url.get_secret_value(),
            pool_size=1,
            pool_timeout=HANG,
            timeout=HANG,
            connect_args=given.database_connect_args,
        ) as database,
        database.reading() as session,
    ):
        return await session.scalar(text("SELECT 1"))


async def ask_as_alembic(url: str) -> object:
    given = settings(url)
    engine = create_async_engine(
        given.database_url.get_secret_value(),
        poolclass=NullPool,
        connect_args=given.database_connect_args,
    )
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT 1"))


@pytest.mark.parametrize("ask", [ask_as_the_service, ask_as_alembic])
@pytest.mark.parametrize(
    "query", ["ssl=verify-full", "ssl=verify-ca", "sslmode=verify-full", "sslrootcert=system"]
)
async def test_whom_the_system_trusts_is_trusted(url: str, query: str, ask: Ask) -> None:
    assert await ask(f"{url}?{query}") == 1


@pytest.mark.parametrize("ask", [ask_as_the_service, ask_as_alembic])
@pytest.mark.parametrize("query", ["ssl=verify-full", "sslrootcert=system"])
async def test_a_certificate_of_another_host_is_refused(url: str, query: str, ask: Ask) -> None:
    with pytest.raises(Exception, match="IP address mismatch"):
        await ask(f"{url.replace('localhost', '127.0.0.1')}?{query}")


async def test_of_several_hosts_each_is_verified(url: str, front: PostgresFront) -> None:
    login, _, _ = url.partition("localhost")
    several = f"{login}/postgres?host=127.0.0.1:{front.port}&host=localhost:{front.port}"
    assert await ask_as_the_service(f"{several}&ssl=verify-full") == 1
    assert len(front.names) == 1


@pytest.mark.parametrize("query", ["ssl=verify-full", "ssl=verify-ca"])
async def test_an_unknown_authority_is_refused_unless_it_is_named(
    url: str, query: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", written(trustme.CA(), home / "others.pem"))
    with pytest.raises(Exception, match="certificate verify failed"):
        await ask_as_the_service(f"{url}?{query}")
    monkeypatch.setenv("PGSSLROOTCERT", written(AUTHORITY, home / "ours.pem"))
    assert await ask_as_the_service(f"{url}?{query}") == 1
    monkeypatch.delenv("PGSSLROOTCERT")
    written(AUTHORITY, home / ".postgresql" / "root.crt")
    assert await ask_as_the_service(f"{url}?{query}") == 1


async def test_a_certificate_of_the_service_is_shown(
    url: str, front: PostgresFront, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = AUTHORITY.issue_cert("service@db.example", common_name="service")
    for name, blob in (
        ("PGSSLCERT", certificate.cert_chain_pems[0]),
        ("PGSSLKEY", certificate.private_key_pem),
    ):
        blob.write_to_path(home / name)
        monkeypatch.setenv(name, str(home / name))
    assert await ask_as_the_service(f"{url}?ssl=verify-full") == 1
    assert front.names == ["service"]


@pytest.mark.parametrize("where", ["passfile=", "PGPASSFILE", "PGPASSWORD"])
async def test_the_password_may_be_outside_of_the_url(
    url: str, where: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = url.partition("postgres:")[2].partition("@")[0]
    passfile = home / "passwords"
    passfile.touch(mode=0o600)
    passfile.write_text(f"*:*:*:*:{password}\n")
    without = f"{url.replace(f':{password}@', '@')}?ssl=verify-full"
    if where == "passfile=":
        without += f"&passfile={passfile}"
    else:
        monkeypatch.setenv(where, password if where == "PGPASSWORD" else str(passfile))
    assert await ask_as_the_service(without) == 1
