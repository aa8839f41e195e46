"""What a part needs is tried at the start and for the health page; what is missing is named."""

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from app.core.redis import Probe
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE
from tests.core.redis.conftest import Connect
from tests.support.asking import ask
from tests.support.states import NOTHING_ANSWERED, WRITES_REFUSED, stateful
from tests.support.versions import VERSIONS

WRITES = [("SET", "x", "PX", "1000"), ("HSET", "probe", "1"), ("XADD", "*", "probe", "1")]
ALL = "resetchannels ~svc:* &svc:* +@all"


def probe(client: Redis, **changes: Any) -> Probe:
    channel = {"publish": "svc:news", "subscribe": "svc:news"}
    return Probe(**{"part": "part", "client": client, "key": "svc:probe", **channel, **changes})


async def refused(probe: Probe) -> list[Any]:
    with capture_logs() as lines:
        await probe.report()
    return [line for line in lines if line["event"] == "redis.probe_refused"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("taken", "missing"),
    [
        ("", []),
        ("-eval", ["+eval"]),
        ("-eval -evalsha", ["+evalsha", "+eval"]),
        ("-set", ["+set"]),
        ("-@dangerous", []),
        ("-publish -subscribe", ["+publish", "+subscribe"]),
        ("resetkeys ~other:*", ["~svc:*"]),
        ("resetchannels", ["&svc:news"]),
    ],
)
async def test_the_right_that_is_missing_is_named(
    version: type[EmbeddedValkey], taken: str, missing: list[str], connect: Connect
) -> None:
    with version() as server:
        ask(server, "ACL", "SETUSER", "part", "on", ">pw", *ALL.split(), *taken.split())
        client = connect(server.url.replace("://", "://part:pw@"), timeout=PATIENCE)
        lines = await refused(probe(client))
    assert [line["missing"] for line in lines] == missing
    assert [line["acl"] for line in lines] == [f"user part ... {right}" for right in missing]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("write", WRITES)
async def test_a_server_that_does_it_all(
    version: type[EmbeddedValkey], write: tuple[str, ...], connect: Connect
) -> None:
    with version() as server:
        tried = probe(connect(server.url, timeout=PATIENCE), write=write)
        assert await refused(tried) == []
        await tried.check()
        assert ask(server, "DBSIZE") == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("word", [*WRITES_REFUSED, "BUSY"])
async def test_states_of_the_server_are_seen_without_traffic(
    version: type[EmbeddedValkey], word: str, connect: Connect
) -> None:
    with stateful(version) as server:
        tried = probe(connect(server.url, timeout=PATIENCE))
        await tried.check()
        with (WRITES_REFUSED | NOTHING_ANSWERED)[word](server):
            with pytest.raises(RedisError):
                await tried.check()
            lines = await refused(tried)
            assert lines
            assert all(line["advice"] for line in lines)


async def test_a_server_that_is_away_is_not_said_to_refuse(connect: Connect) -> None:
    with EmbeddedValkey() as server:
        tried = probe(connect(server.url))
        server.kill()
        assert await refused(tried) == []
        with pytest.raises(RedisError):
            await tried.check()
