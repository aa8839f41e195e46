"""What an error means, by the first word of the reply: each of them made by a real server.

Tried with every way a command is sent, because a script before Redis 7, EXEC and redis-py's
pipelines put the reply into a sentence of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app.core.redis import (
    ClientOptions,
    RedisClient,
    Script,
    advice,
    create_client,
    is_refusal,
    is_transient,
    is_unreadable,
    reply_code,
)
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE, until
from tests.support.asking import ask
from tests.support.cluster import ClusterNode
from tests.support.states import NOTHING_ANSWERED, WRITES_REFUSED, demoted, stateful
from tests.support.versions import VERSIONS

Command = Callable[[Redis], Awaitable[object]]

_WRITE = Script("return redis.call('SET', KEYS[1], 'x')")


async def plainly(redis: Redis) -> None:
    await redis.set("key", "x")


async def in_a_script(redis: Redis) -> None:
    await _WRITE.run(redis, ["key"], [])


async def in_a_pipeline(redis: Redis) -> None:
    pipeline = redis.pipeline(transaction=False)
    pipeline.set("key", "x")
    await pipeline.execute()


async def in_a_transaction(redis: Redis) -> None:
    pipeline = redis.pipeline(transaction=True)
    pipeline.set("key", "x")
    await pipeline.execute()


WAYS = [plainly, in_a_script, in_a_pipeline, in_a_transaction]


@pytest.fixture(scope="module", params=VERSIONS)
def any_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    with stateful(request.param) as server:
        yield server


@asynccontextmanager
async def client(server: EmbeddedValkey, login: str = "") -> AsyncIterator[Redis]:
    url = server.url.replace("://", f"://{login}")
    made = create_client(url, _patient())
    assert isinstance(made, Redis)
    try:
        yield made
    finally:
        await made.aclose()


def _patient() -> ClientOptions:
    return ClientOptions(name="test", timeout=PATIENCE, connect_timeout=PATIENCE)


async def error_of(command: Awaitable[object]) -> RedisError:
    with pytest.raises(RedisError) as caught:
        await command
    return caught.value


@pytest.mark.parametrize(
    "word",
    [
        *(word for word in (*WRITES_REFUSED, *NOTHING_ANSWERED) if word != "LOADING"),
        pytest.param("LOADING", marks=pytest.mark.slow),
    ],
)
async def test_states_that_pass(any_server: EmbeddedValkey, word: str) -> None:
    state = (WRITES_REFUSED | NOTHING_ANSWERED)[word]
    async with client(any_server) as redis:
        with state(any_server):
            for way in WAYS:
                error = await error_of(way(redis))
                # A replica that lost its primary refuses writes before it looks at the link.
                expected = {word, "READONLY"} if word == "MASTERDOWN" else {word}
                assert reply_code(error) in expected, way
                assert is_transient(error)
                assert not is_refusal(error)
                assert advice(error)
            if word in NOTHING_ANSWERED:
                error = await error_of(redis.get("key"))
                assert (reply_code(error), is_unreadable(error)) == (word, True)
            else:
                assert not is_unreadable(error)
                await redis.get("key")
        await until(lambda: _succeeds(plainly(redis)))


async def _succeeds(command: Awaitable[object]) -> bool:
    try:
        await command
    except RedisError:
        return False
    return True


async def test_waiting_for_a_value_when_the_server_is_demoted(any_server: EmbeddedValkey) -> None:
    async with client(any_server) as redis:
        waiting = asyncio.create_task(error_of(redis.blpop(["empty"], 60)))
        await until(lambda: "blocked_clients:1" in _clients(any_server))
        with demoted(any_server):
            error = await waiting
    assert (reply_code(error), is_transient(error)) == ("UNBLOCKED", True)


def _clients(server: EmbeddedValkey) -> str:
    return "".join(f"{k}:{v}\n" for k, v in ask(server, "INFO", "clients").items())


async def test_a_transaction_that_is_refused_at_its_end(any_server: EmbeddedValkey) -> None:
    async with client(any_server) as redis, redis.client() as connection:
        await connection.execute_command("MULTI")
        await connection.execute_command("SET", "key", "x")
        with WRITES_REFUSED["NOREPLICAS"](any_server):
            error = await error_of(connection.execute_command("EXEC"))
    assert (reply_code(error), is_transient(error)) == ("NOREPLICAS", True)


async def test_a_cluster_without_some_slots() -> None:
    with ClusterNode() as node:
        async with client(node) as redis:
            error = await error_of(plainly(redis))
    assert (reply_code(error), is_transient(error)) == ("CLUSTERDOWN", True)


async def test_a_slot_that_is_on_its_way_to_another_node() -> None:
    with ClusterNode() as source, ClusterNode() as target:
        ask(source, "CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        ask(source, "CLUSTER", "MEET", target.host, target.port, target.bus_port)
        target_id = ask(target, "CLUSTER", "MYID")
        await until(lambda: target_id in str(ask(source, "CLUSTER", "NODES")))
        await until(lambda: "cluster_state:ok" in str(ask(source, "CLUSTER", "INFO")))
        ask(source, "SET", "{x}1", "here")
        slot = ask(source, "CLUSTER", "KEYSLOT", "x")
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        async with client(source) as redis:
            error = await error_of(redis.mget("{x}1", "{x}2"))
            assert (reply_code(error), is_transient(error)) == ("TRYAGAIN", True)
            moved = await error_of(redis.get("{x}2"))
            assert reply_code(moved) == "ASK"


MISTAKES: dict[str, list[Command]] = {
    "NOPERM": [
        lambda redis: redis.execute_command("INCR", "allowed:x"),
        lambda redis: redis.get("forbidden"),
        lambda redis: redis.eval("return redis.call('GET', 'forbidden')", 0),
        lambda redis: redis.eval("return redis.call('INCR', KEYS[1])", 1, "allowed:x"),
        lambda redis: redis.mget("allowed:x", "forbidden"),
    ],
    "NOSCRIPT": [lambda redis: redis.evalsha("f" * 40, 0)],
    "WRONGTYPE": [
        lambda redis: redis.get("allowed:list"),
        lambda redis: redis.eval("return redis.call('GET', 'allowed:list')", 0),
    ],
    "UNKNOWN": [
        lambda redis: redis.execute_command("GETALL"),
        lambda redis: redis.execute_command("CONFIG", "NOTHING"),
        lambda redis: redis.eval("return redis.call('GETALL')", 0),
    ],
    "ERR": [
        lambda redis: redis.execute_command("SET", "allowed:x", "y", "READONLY"),
        lambda redis: redis.eval("error('-READONLY says the script')", 0),
        lambda redis: redis.eval("return nothing.at_all", 0),
    ],
}


@pytest.mark.parametrize("word", MISTAKES)
async def test_mistakes_do_not_pass(any_server: EmbeddedValkey, word: str) -> None:
    ask(any_server, "DEL", "allowed:list")
    ask(any_server, "RPUSH", "allowed:list", "x")
    ask(any_server, "ACL", "SETUSER", "limited", "on", ">pw", "~allowed:*", "+@all", "-incr")
    async with client(any_server, "limited:pw@") as redis:
        for mistake in MISTAKES[word]:
            error = await error_of(mistake(redis))
            assert (reply_code(error), is_transient(error), is_refusal(error)) == (
                word,
                False,
                True,
            )
            assert bool(advice(error)) is (word != "ERR")


async def test_logins_that_are_refused_do_not_pass(any_server: EmbeddedValkey) -> None:
    async with client(any_server, "nobody:wrong@") as redis:
        wrong = await error_of(redis.ping())
    ask(any_server, "CONFIG", "SET", "requirepass", "secret")
    try:
        async with client(any_server) as redis:
            missing = await error_of(redis.ping())
    finally:
        with_password = EmbeddedValkey(requirepass="secret")
        with_password.port = any_server.port
        async with client(with_password) as redis:
            await redis.config_set("requirepass", "")
    for error, word in (wrong, "WRONGPASS"), (missing, "NOAUTH"):
        assert (reply_code(error), is_transient(error), is_refusal(error)) == (word, False, True)
        assert advice(error)


async def test_a_server_that_is_not_there_passes() -> None:
    nowhere: RedisClient = create_client(f"redis://127.0.0.1:{free_port()}", _patient())
    error = await error_of(nowhere.ping())
    await nowhere.aclose()
    assert reply_code(error) is None
    assert is_transient(error)
    assert is_unreadable(error)
    assert not is_refusal(error)


def test_errors_that_were_raised_together_pass_together() -> None:
    gone, wrong = ResponseError("NOREPLICAS Not enough good replicas"), ResponseError("ERR syntax")
    assert is_transient(ExceptionGroup("", [gone, ExceptionGroup("", [gone])]))
    assert not is_transient(ExceptionGroup("", [gone, wrong]))


@pytest.mark.parametrize("word", ["BUSYGROUP", "BUSYKEY", "NOTBUSY", "NOREPLICASX"])
def test_words_are_whole(word: str) -> None:
    assert not is_transient(ResponseError(f"{word} this is another word"))


def test_what_a_command_says_is_not_taken_for_the_reply() -> None:
    text = "Command # 1 (SET a '-OOM of pipeline caused error: OOM x') of pipeline caused error: "
    assert reply_code(ResponseError(f"{text}('WRONGTYPE Operation against a key',)")) == "WRONGTYPE"
