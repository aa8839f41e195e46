"""Without Redis the service goes on: slower, never wrong, and it comes back by itself."""

import asyncio
from collections import Counter
from functools import partial
from time import monotonic

import pytest

from app.core.redis import RedisDependency
from app.settings import Settings
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.conftest import Client, MakeValkey, Serve
from tests.notes import install_notes

# A read of the cache waits 0.05 s for Redis, the default. Whatever else waited would wait for this
# long, which no pause of a busy machine comes close to.
TIMEOUTS = {"cache_read_timeout": 0.05, "redis_timeout": 60.0, "redis_pool_timeout": 60.0}
WORST = 30.0


async def write(client: Client, text: str = "lamp") -> str:
    """Write a note; returns its path."""
    path = "/test-notes/one"
    assert (await client.put(path, json=text)).status_code == 204
    return path


async def read(client: Client, path: str) -> tuple[int, float]:
    started = monotonic()
    response = await client.get(path)
    return response.status_code, monotonic() - started


async def read_by_many(
    client: Client, path: str, *, readers: int, seconds: float
) -> list[tuple[int, float]]:
    """Statuses and latencies of readers that read one after the other for some time."""
    end, answers = monotonic() + seconds, []

    async def one() -> None:
        while monotonic() < end:
            answers.append(await read(client, path))
            await asyncio.sleep(0.02)

    await asyncio.gather(*(one() for _ in range(readers)))
    return answers


async def until_hit(client: Client, path: str) -> None:
    async def hit() -> bool:
        return "hit" in (await client.get(path)).headers["cache-status"]

    await until(hit, what="a hit")


async def test_it_starts_and_answers_without_redis(serve: Serve) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    async with serve(install_notes, redis_url=nowhere) as client:
        path = await write(client)
        for _ in range(10):
            assert (await client.get(path)).json() == "lamp"
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["checks"]["redis"]["status"] != "ok"


async def test_a_wrong_command_is_a_mistake_and_no_outage(
    client: Client, settings: Settings
) -> None:
    key = f"{settings.service_name}:data:text"

    async def wrong(redis: RedisDependency) -> None:
        await redis.set(key, "x")
        await redis.execute_command("LPUSH", key, "y")

    client.app.add_api_route("/wrong", wrong)
    assert (await client.get("/wrong")).status_code == 500


async def test_a_command_while_redis_is_away_is_a_clear_error(serve: Serve) -> None:
    async def ping(redis: RedisDependency) -> None:
        await redis.ping()

    async with serve(redis_url=f"redis://127.0.0.1:{free_port()}/0") as client:
        client.app.add_api_route("/ping", ping)
        response = await client.get("/ping")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("refusal", [{"min_replicas_to_write": "1"}, {"maxmemory": "1"}])
async def test_a_write_that_redis_refuses_for_now_is_a_clear_error(
    serve: Serve,
    settings: Settings,
    make_valkey: MakeValkey,
    refusal: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = f"{settings.service_name}:data:text"

    async def write(redis: RedisDependency, together: bool = False) -> None:
        async def set_it() -> None:
            await redis.set(key, "x")

        if not together:
            await set_it()
        async with asyncio.TaskGroup() as group:
            group.create_task(set_it())

    with make_valkey(**refusal) as valkey:
        async with serve(redis_url=valkey.url) as client:
            assert "redis.probe_refused" in capsys.readouterr().out
            client.app.add_api_route("/write", write)
            responses = [await client.get(path) for path in ("/write", "/write?together=1")]
            await until(partial(a_refusal_is_seen, client))
    for response in responses:
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def a_refusal_is_seen(client: Client) -> bool:
    """A PING would not tell it."""
    await client.get("/write")
    ready = await client.get("/health/ready")
    assert ready.status_code == 200
    checks = ready.json()["checks"]
    return all(checks[part]["status"] == "degraded" for part in ("cache", "redis"))


async def test_redis_killed_under_readers_and_back(serve: Serve, valkey: EmbeddedValkey) -> None:
    async with serve(install_notes, redis_url=valkey.url, **TIMEOUTS) as client:
        path = await write(client)
        await until_hit(client, path)

        valkey.kill()
        answers = await read_by_many(client, path, readers=20, seconds=1)
        assert Counter(status for status, _ in answers) == {200: len(answers)}
        assert max(latency for _, latency in answers) < WORST

        valkey.restart()
        await until_hit(client, path)


async def test_redis_frozen_under_50_readers_and_back(serve: Serve, valkey: EmbeddedValkey) -> None:
    async with serve(install_notes, redis_url=valkey.url, **TIMEOUTS) as client:
        path = await write(client)
        await until_hit(client, path)

        valkey.freeze()
        answers = await read_by_many(client, path, readers=50, seconds=1.5)
        assert Counter(status for status, _ in answers) == {200: len(answers)}
        worst = max(latency for _, latency in answers)
        assert worst < WORST
        print(f"frozen: {len(answers)} reads, 0 errors, worst {worst * 1000:.0f} ms")

        valkey.thaw()
        await until_hit(client, path)


async def test_what_changes_meanwhile_is_not_served_old_afterwards(
    serve: Serve, valkey: EmbeddedValkey
) -> None:
    limits = {"cache_read_timeout": 0.05, "redis_timeout": 0.2}
    async with serve(install_notes, redis_url=valkey.url, **limits) as client:
        path = await write(client)
        await until_hit(client, path)

        valkey.freeze()
        await write(client, "new")
        valkey.thaw()

        end = monotonic() + 4
        while monotonic() < end:
            assert (await client.get(path)).json() == "new"
            await asyncio.sleep(0.05)
        await until_hit(client, path)
