"""Routes whose answers are old, fail, are asked for by many at once, or whose Redis is away."""

import asyncio
from time import monotonic
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Response
from httpx2 import AsyncClient

from app.core.cache import Cache
from devservers.valkey import EmbeddedValkey
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, until
from tests.core.cache.http.serving import application, asking, status


def one_page(
    cache: Cache, source: Source[str], *, public: bool = True, **options: float
) -> FastAPI:
    async def somebody() -> str:
        return "somebody"

    router = APIRouter()
    policy = cache.policy("page", **cast(Any, {"ttl": 60, **options}))
    kind = {"public": True} if public else {"vary_by": somebody}

    @router.get("/page")
    @policy.http(**kind, tags=["pages"])
    async def page() -> str:
        return await source.load()

    return application(router)


async def says(client: AsyncClient, answer: str) -> bool:
    return bool((await client.get("/page")).json() == answer)


kinds = pytest.mark.parametrize("public", [True, False], ids=["public", "private"])


@kinds
async def test_many_at_once_load_once(cache: Cache, another: OpenCache, public: bool) -> None:
    source = Source("value")
    apps = [one_page(each, source, public=public) for each in (cache, await another())]
    source.hold()
    async with asking(apps[0]) as first, asking(apps[1]) as second:
        requests = [
            asyncio.create_task(client.get("/page"))
            for client in (first, second)
            for _ in range(50)
        ]
        await source.started.wait()
        source.release()
        answers = await asyncio.gather(*requests)
    assert source.loads == 1
    assert {(answer.status_code, answer.json()) for answer in answers} == {(200, "value")}


@kinds
async def test_a_stale_answer_is_served_while_one_refreshes(cache: Cache, public: bool) -> None:
    source = Source("old")
    app = one_page(cache, source, public=public, ttl=0.1, stale_while_revalidate=60)
    async with asking(app) as client:
        await client.get("/page")
        source.value = "new"
        await asyncio.sleep(0.15)
        source.hold()
        answers = await asyncio.gather(*(client.get("/page") for _ in range(20)))
        assert {answer.json() for answer in answers} == {"old"}  # though the load hangs
        assert all("; hit; ttl=-" in answer.headers["cache-status"] for answer in answers)
        source.release()
        await until(lambda: says(client, "new"))


@kinds
async def test_a_popular_answer_is_computed_anew_before_it_expires(
    cache: Cache, public: bool
) -> None:
    source = Source("old")
    # The mean head start is a quarter of the ttl: of the first few hundred readers one is due.
    app = one_page(cache, source, public=public, ttl=60, jitter=0, early_refresh=1_000_000)
    async with asking(app) as client:
        source.hold()
        first = asyncio.create_task(client.get("/page"))
        await source.started.wait()
        await asyncio.sleep(0.05)  # what it cost to compute
        source.release()
        assert (await first).json() == "old"
        source.value = "new"
        await until(lambda: says(client, "new"))


async def test_control_others_are_not(cache: Cache) -> None:
    source = Source("old")
    async with asking(one_page(cache, source, early_refresh=0)) as client:
        for _ in range(300):
            assert await says(client, "old")
    assert source.loads == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), HTTPException(503), HTTPException(500)])
@kinds
async def test_an_old_answer_stands_in_for_a_server_error(
    cache: Cache, public: bool, error: Exception
) -> None:
    source = Source("old")
    app = one_page(cache, source, public=public, ttl=0.05, stale_if_error=60)
    async with asking(app) as client:
        await client.get("/page")
        await asyncio.sleep(0.1)
        source.error = error
        answer = await client.get("/page")
    assert (answer.status_code, answer.json()) == (200, "old")
    assert answer.headers["cache-status"].endswith("detail=stale-if-error")


@kinds
async def test_without_an_old_answer_the_error_is_the_answer(cache: Cache, public: bool) -> None:
    source = Source("value")
    source.error = HTTPException(503, "later", {"retry-after": "7"})
    async with asking(one_page(cache, source, public=public, stale_if_error=60)) as client:
        failed = await client.get("/page")
        assert (failed.status_code, failed.headers["retry-after"]) == (503, "7")
        assert "etag" not in failed.headers
        source.error = None
        assert (await client.get("/page")).json() == "value"


async def test_a_returned_server_error_lets_the_old_answer_stand_in(cache: Cache) -> None:
    router, broken = APIRouter(), False

    @router.get("/page")
    @cache.policy("page", ttl=0.05, stale_if_error=60).http(public=True)
    async def page() -> Response:
        return Response("down" if broken else "up", 503 if broken else 200)

    async with asking(application(router)) as client:
        assert (await client.get("/page")).text == "up"
        broken = True
        await asyncio.sleep(0.1)
        assert (await client.get("/page")).text == "up"


@kinds
async def test_an_invalidated_answer_is_not_seen_again(cache: Cache, public: bool) -> None:
    source = Source("old")
    app = one_page(cache, source, public=public, stale_while_revalidate=60, stale_if_error=60)
    async with asking(app) as client:
        await client.get("/page")
        source.value = "new"
        await cache.invalidate_tags("pages")
        answers = [await client.get("/page") for _ in range(2)]
    assert [answer.json() for answer in answers] == ["new", "new"]
    assert [status(answer) for answer in answers] == ["fwd=miss", "hit"]


@kinds
async def test_invalidated_while_it_is_computed(cache: Cache, public: bool) -> None:
    """The answer of the load that began before is nobody's later."""
    source = Source("old")
    async with asking(one_page(cache, source, public=public)) as client:
        source.hold()
        early = asyncio.create_task(client.get("/page"))
        await source.started.wait()
        source.value = "new"
        await cache.invalidate_tags("pages")
        source.release()
        await early
        assert (await client.get("/page")).json() == "new"


@kinds
async def test_redis_killed_and_frozen_cost_no_answer(another: OpenCache, public: bool) -> None:
    source = Source("value")
    with EmbeddedValkey() as server:
        cache = await another(server.url, read_timeout=0.05, command_timeout=0.2)
        async with asking(one_page(cache, source, public=public)) as client:
            await client.get("/page")
            for harm, heal in ((server.freeze, server.thaw), (server.kill, server.restart)):
                harm()
                for _ in range(20):
                    started = monotonic()
                    answer = await client.get("/page")
                    assert (answer.status_code, answer.json()) == (200, "value")
                    assert monotonic() - started < 1
                heal()

                async def is_hit() -> bool:
                    return status(await client.get("/page")) == "hit"

                await until(is_hit)


@kinds
async def test_a_client_that_gives_up_takes_nobody_along(cache: Cache, public: bool) -> None:
    source = Source("value")
    async with asking(one_page(cache, source, public=public)) as client:
        source.hold()
        requests = [asyncio.create_task(client.get("/page")) for _ in range(10)]
        await source.started.wait()
        requests[0].cancel()  # the one that loads
        requests[5].cancel()
        source.release()
        answers = await asyncio.gather(*requests, return_exceptions=True)
    answered = [answer.json() for answer in answers if not isinstance(answer, BaseException)]
    assert answered == ["value"] * 8
    assert source.loads == 1
