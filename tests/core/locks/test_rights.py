"""Users that may not do everything, and proxies that do not have everything.

Locks go without what is a courtesy, and name what is missing; without what they need they say so
at once, in the log at the start and on the health page.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from redis.exceptions import RedisError

from app.core.locks import Locks, LockUnavailable
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.locks.nodes import PREFIX, Nodes, ask, open_locks
from tests.support.poorproxy import PoorProxy
from tests.support.states import demoted, full, stateful, unsaved, without_replicas
from tests.support.versions import VERSIONS

Lines = list[MutableMapping[str, Any]]

_NOBODY = ("reset", "resetchannels", "on", ">secret")
_ALL = f"~{PREFIX}:* &{PREFIX}:released:* +@all"
_EXACT = (
    f"~{PREFIX}:* &{PREFIX}:released:* -@all +ping +select +client|setname +info +time +get +set"
    " +del +pttl +pexpire +hmget +hset +eval +evalsha +pubsub +publish +subscribe +unsubscribe"
)


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    with stateful(request.param) as server:
        yield server


@pytest.fixture
async def url(server: EmbeddedValkey) -> AsyncIterator[str]:
    await ask(server.url, "FLUSHALL")
    yield server.url.replace("redis://", "redis://service:secret@")
    await ask(server.url, "ACL", "DELUSER", "service")


async def allow(server: EmbeddedValkey, rights: str) -> None:
    rights = rights.replace("client|setname", "client")  # 6.2 has its own way to write it
    line = ("ACL", "SETUSER", "service", *_NOBODY, *rights.split())
    assert await ask(server.url, *line) == b"OK", rights


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Locks, Lines]]:
    """Locks, and all that is logged meanwhile."""
    with structlog.testing.capture_logs() as logs:
        async with open_locks("lua", [url]) as locks:
            yield locks, logs


async def refused(logs: Lines, right: str) -> MutableMapping[str, Any]:
    """The line of the log that says that a right is missing."""

    def lines() -> Lines:
        refusals = [line for line in logs if line["event"] == "redis.probe_refused"]
        return [line for line in refusals if line["missing"].startswith(right)]

    await until(lines, what=f"a line that {right} is missing")
    return lines()[0]


@pytest.mark.parametrize(
    ("rights", "command", "right"),
    [
        pytest.param("~* allchannels +@all -@dangerous", "INFO", "+info", id="nothing dangerous"),
        pytest.param(f"{_ALL} -info", "INFO", "+info", id="INFO"),
        pytest.param(f"{_ALL} -publish", "PUBLISH", "+publish", id="PUBLISH"),
        pytest.param(f"{_ALL} -pubsub", "PUBSUB", "+pubsub", id="PUBSUB"),
        pytest.param(f"{_ALL} -subscribe", "SUBSCRIBE", "+subscribe", id="SUBSCRIBE"),
        pytest.param(f"~{PREFIX}:* +@all", "PUBLISH", f"&{PREFIX}:released:*", id="no channels"),
    ],
)
async def test_locks_go_without_a_courtesy(
    server: EmbeddedValkey, url: str, rights: str, command: str, right: str
) -> None:
    """The lock goes from hand to hand all the same, long before its ttl is over."""
    await allow(server, rights)
    async with opened(url) as (locks, logs), open_locks("lua", [url]) as others:
        line = await refused(logs, right)  # some servers name the subcommand, too
        assert line["command"] == command
        assert line["without"] != "there are no locks"
        await locks.check()
        async with locks.hold("name", ttl=10 * HANG):
            waiting = asyncio.create_task(_enter(others))
            await asyncio.sleep(0)
        await asyncio.wait_for(waiting, HANG)


async def _enter(locks: Locks) -> None:
    async with locks.hold("name", timeout=2 * HANG):
        pass


async def test_what_the_rules_of_a_service_allow_is_all_that_is_needed(
    server: EmbeddedValkey, url: str
) -> None:
    await allow(server, _EXACT)
    async with opened(url) as (locks, logs):
        await locks.check()
        assert not [line for line in logs if line["event"] == "redis.probe_refused"]
        async with locks.hold("name", timeout=0):
            pass


@pytest.mark.parametrize(
    ("rights", "right"),
    [
        (f"{_ALL} -evalsha -eval", "+evalsha"),
        (f"{_ALL} -eval", "+eval"),
        (f"{_ALL} -set", "+set"),
        (f"{_ALL} -pexpire", "+pexpire"),
        (f"{_ALL} -hset", "+hset"),
        (f"~somebody:* &{PREFIX}:released:* +@all", f"~{PREFIX}:*"),
    ],
)
async def test_a_right_that_locks_need_is_named(
    server: EmbeddedValkey, url: str, rights: str, right: str
) -> None:
    await allow(server, rights)
    await ask(server.url, "SCRIPT", "FLUSH")
    async with opened(url) as (locks, logs):
        assert (await refused(logs, right))["without"] == "there are no locks"
        with pytest.raises(RedisError):
            await locks.check()
        if right not in ("+pexpire", "+hset"):  # which a lock does without for a while
            with pytest.raises(LockUnavailable, match=r"not allowed"):
                async with asyncio.timeout(HANG), locks.hold("name", timeout=10 * HANG):
                    pytest.fail("entered")


@pytest.mark.parametrize("state", [without_replicas, full, unsaved, demoted])
async def test_a_server_that_takes_no_writes_is_seen(server: EmbeddedValkey, state: object) -> None:
    assert callable(state)
    async with open_locks("lua", [server.url]) as locks:
        await locks.check()
        with state(server):
            with pytest.raises(RedisError):
                await locks.check()
            with pytest.raises(LockUnavailable):
                async with locks.hold("name", timeout=0.1):
                    pytest.fail("entered")

        async def well() -> bool:
            try:
                await locks.check()
            except RedisError:
                return False
            return True

        await until(well, what="the health of the locks")


async def test_a_quorum_names_the_right_at_once(redlock: Nodes) -> None:
    for each in redlock.servers:
        await allow(each, f"{_ALL} -evalsha -eval")
    urls = [url.replace("redis://", "redis://service:secret@") for url in redlock.urls]
    async with open_locks("redlock", urls) as locks:
        with pytest.raises(RedisError, match="evalsha"):
            await locks.check()
        with pytest.raises(LockUnavailable, match=r"not allowed.*evalsha"):
            async with asyncio.timeout(HANG), locks.hold("name", timeout=10 * HANG):
                pytest.fail("entered")
    await redlock.on_all("ACL", "DELUSER", "service")


async def test_a_quorum_is_well_as_long_as_most_of_its_servers_are(redlock: Nodes) -> None:
    async with open_locks("redlock", redlock.urls, node_timeout=1) as locks:
        await locks.check()
        for server in redlock.servers[:2]:
            server.kill()
        await locks.check()
        with without_replicas(redlock.servers[2]), pytest.raises(RedisError, match="NOREPLICAS"):
            await locks.check()
        await locks.check()


@pytest.mark.parametrize("missing", [("CLIENT",), ("HELLO",), ("CLIENT", "HELLO", "INFO")])
async def test_a_proxy_without_optional_commands(
    server: EmbeddedValkey, missing: tuple[str, ...]
) -> None:
    async with (
        PoorProxy(server.host, server.port, without=missing) as proxy,
        open_locks("lua", [proxy.url]) as locks,
        open_locks("lua", [proxy.url]) as others,
    ):
        await locks.check()
        async with locks.hold("name", ttl=10 * HANG):
            waiting = asyncio.create_task(_enter(others))
            await asyncio.sleep(0)
        await asyncio.wait_for(waiting, HANG)
