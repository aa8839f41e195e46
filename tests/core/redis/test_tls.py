"""`rediss://`: the server has to prove who it is before it hears a password."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from devservers.valkey import EmbeddedValkey
from tests.core.redis.conftest import Connect
from tests.support.tls import tls_front


@pytest.fixture
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(requirepass="secret") as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file that the client believes."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
async def port(valkey: EmbeddedValkey, authority: trustme.CA) -> AsyncIterator[int]:
    async with tls_front(valkey.host, valkey.port, authority.issue_cert("127.0.0.1")) as port:
        yield port


def url(port: int, trusted: Path) -> str:
    return f"rediss://:secret@127.0.0.1:{port}/0?ssl_ca_certs={quote(str(trusted), safe='')}"


async def logins(valkey: EmbeddedValkey, connect: Connect) -> int:
    """How many connections have shown the password, this one included."""
    stats = await connect(valkey.url).info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("auth", "hello"))


async def test_it_works(connect: Connect, port: int, trusted: Path, valkey: EmbeddedValkey) -> None:
    client = connect(url(port, trusted))
    await client.set("key", "value")
    assert await client.get("key") == b"value"
    assert await logins(valkey, connect) == 2


async def test_a_server_of_another_authority_is_refused_unheard(
    connect: Connect, port: int, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await connect(url(port, other)).get("key")
    assert await logins(valkey, connect) == 1


async def test_a_server_with_another_name_is_refused_unheard(
    connect: Connect, authority: trustme.CA, trusted: Path, valkey: EmbeddedValkey
) -> None:
    certificate = authority.issue_cert("redis.example")
    async with tls_front(valkey.host, valkey.port, certificate) as port:
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(url(port, trusted)).get("key")
    assert await logins(valkey, connect) == 1


@pytest.mark.slow
async def test_a_server_without_tls_is_an_error_in_bounded_time(
    connect: Connect, trusted: Path, valkey: EmbeddedValkey
) -> None:
    with pytest.raises(RedisError):
        await connect(url(valkey.port, trusted)).get("key")
