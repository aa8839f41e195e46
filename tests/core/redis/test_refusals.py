"""What the server refuses to a client is never silent, whatever its caller does with the error."""

from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from structlog.testing import capture_logs

from app.core.redis import ClientOptions, Refusals, Refused, create_client, refusals_of
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE
from tests.core.redis.conftest import Connect
from tests.support.asking import ask
from tests.support.states import WRITES_REFUSED, stateful
from tests.support.versions import VERSIONS

FULL = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.", status_code="OOM")


def counted(client: str, code: str) -> float:
    labels = {"client": client, "code": code}
    return REGISTRY.get_sample_value("redis_refusals_total", labels) or 0.0


def told(lines: list[Any]) -> list[tuple[str, int]]:
    return [(line["code"], line["times"]) for line in lines if line["event"] == "redis.refused"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("word", WRITES_REFUSED)
async def test_of_a_real_server(word: str, version: type[EmbeddedValkey], connect: Connect) -> None:
    before = counted("test", word)
    with stateful(version) as server:
        client = connect(server.url, timeout=PATIENCE)
        with capture_logs() as lines, WRITES_REFUSED[word](server):
            for _ in range(3):
                with suppress(RedisError):  # as a part does that goes on without Redis
                    await client.eval("return redis.call('SET', KEYS[1], 'x')", 1, "key")
    assert told(lines) == [(word, 1)]
    assert counted("test", word) - before == 3
    with pytest.raises(Refused, match=word):
        refusals_of(client).check()


async def test_a_command_that_is_not_allowed(server: EmbeddedValkey, connect: Connect) -> None:
    ask(server, "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get", "+ping")
    client = connect(server.url.replace("://", "://reader:pw@"), timeout=PATIENCE)
    with capture_logs() as lines:
        await client.get("key")
        refusals_of(client).check()
        with suppress(RedisError):
            await client.eval("return 1", 0)
    assert told(lines) == [("NOPERM", 1)]
    assert "ACL" in lines[-1]["advice"]
    with pytest.raises(Refused, match="eval"):
        refusals_of(client).check()


async def test_a_login_that_is_refused(server: EmbeddedValkey, connect: Connect) -> None:
    client = connect(server.url.replace("://", "://nobody:wrong@"), timeout=PATIENCE)
    with capture_logs() as lines, suppress(RedisError):
        await client.get("key")
    assert told(lines) == [("WRONGPASS", 1)]


async def test_what_belongs_to_the_protocol_or_to_one_command_is_no_refusal(
    redis: Redis, server: EmbeddedValkey, connect: Connect
) -> None:
    client = connect(server.url, timeout=PATIENCE)
    await client.rpush("list", "x")
    mistakes = [
        client.evalsha("f" * 40, 0),
        client.get("list"),
        client.execute_command("SET", "x"),
        client.eval("return redis.error_reply('MINE is another word')", 0),
    ]
    before = counted("test", "ERR")
    with capture_logs() as lines:
        for mistake in mistakes:
            with pytest.raises(ResponseError):
                await mistake
    assert told(lines) == []
    assert counted("test", "ERR") - before == 2, "labels are of a known number"
    refusals_of(client).check()


async def test_who_asks_for_others_is_denied_things(server: EmbeddedValkey) -> None:
    ask(server, "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get", "+client|setname")
    options = ClientOptions(name="role", timeout=PATIENCE, denials_expected=True)
    client = create_client(server.url.replace("://", "://reader:pw@"), options)
    with capture_logs() as lines, pytest.raises(ResponseError):
        await client.set("x", "y")
    await client.aclose()
    assert told(lines) == []
    refusals_of(client).check()


def test_the_first_of_a_kind_is_logged_and_then_one_a_minute() -> None:
    now = 1000.0
    refusals = Refusals("clock", monotonic=lambda: now)
    with capture_logs() as lines:
        for seconds in range(150):
            now = 1000.0 + seconds
            refusals.note(FULL)
    assert told(lines) == [("OOM", 1), ("OOM", 60), ("OOM", 60)]


def test_health_is_degraded_while_it_lasts() -> None:
    now = 1000.0
    refusals = Refusals("clock", monotonic=lambda: now)
    refusals.check()
    refusals.note(FULL)
    now += 5
    with pytest.raises(Refused, match="OOM"):
        refusals.check()
    now += 60
    refusals.check()


async def test_clients_that_were_made_elsewhere_tell_nothing(server: EmbeddedValkey) -> None:
    with pytest.raises(TypeError, match="create_client"):
        refusals_of(Redis(port=server.port))
