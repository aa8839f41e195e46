"""Servers of development: those that are ours get the rules, others if somebody may give them."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from app.core.redis import with_login
from app.settings import Settings
from devservers.access import ADMIN, ping, put_under_rules
from devservers.guard import ServerUnavailable
from devservers.valkey import EmbeddedValkey


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


def is_let_in(url: str) -> bool:
    with Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except AuthenticationError:
            return False


@pytest.mark.parametrize("admin", ["admin:secret", "default:secret"])
def test_whoever_is_named_may_do_everything_and_a_stranger_nothing(
    server: EmbeddedValkey, admin: str
) -> None:
    url = put_under_rules(server.url, admin)
    assert not is_let_in(url)
    with Redis.from_url(with_login(url, *admin.split(":"))) as client:
        assert client.config_get("maxmemory")


def test_a_server_that_others_use_gets_the_users_from_who_may_make_them(
    server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerUnavailable, match=f"{ADMIN}=user:password"):
        ping(server.url)
    monkeypatch.setenv(ADMIN, "default:any")
    ping(server.url)
    assert is_let_in(server.url)  # as before
    with (
        Redis.from_url(Settings().as_role(server.url, "cache")) as client,
        pytest.raises(NoPermissionError),
    ):
        client.get("another-service:1:item:{x}")
