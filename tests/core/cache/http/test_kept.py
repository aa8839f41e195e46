"""A route says how long its response is kept, or that it is not."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, Header, HTTPException, Response
from fastapi.responses import PlainTextResponse
from redis.asyncio import Redis

from app.core.cache import Cache, Kept, do_not_keep, keep
from app.core.cache.options import SECOND_ASK_SECONDS
from devservers.waiting import until
from tests.core.cache.harness import Source, value_keys, waiting_callers
from tests.core.cache.http.serving import Item, application, asking, status

TTL = 600


def who(authorization: str = Header("nobody")) -> str:
    return authorization


class Routes:
    """One of each kind; all answer what `source` gives."""

    def __init__(self, cache: Cache, source: Source[Kept[Any]]) -> None:
        router = APIRouter()
        policy = cache.policy("item", ttl=TTL, jitter=0)

        @router.get("/public")
        @policy.http(public=True)
        async def public() -> Kept[Item]:
            return await source.load()

        @router.get("/personal")
        @policy.http(vary_by=who)
        async def personal() -> Kept[Item]:
            return await source.load()

        @router.get("/threaded")
        @policy.http(public=True)
        def threaded() -> Kept[Item]:
            source.loads += 1
            return source.value

        @router.get("/either")
        @policy.http(public=True)
        async def either() -> Kept[Item] | Item:
            result: Kept[Item] = await source.load()
            return result

        @router.get("/clients")
        @policy.http(public=True, max_age=60)
        async def clients() -> Kept[Item]:
            return await source.load()

        @router.get("/text")
        @policy.http(public=True)
        async def text() -> Kept[Response]:
            return await source.load()

        @router.get("/missing")
        @policy.http(public=True)
        async def missing() -> Kept[Item]:
            source.loads += 1
            raise HTTPException(404, headers={"cache-control": "no-store"})

        @router.get("/made-up")
        @policy.http(public=True, second_ask=True)
        async def made_up(cursor: int) -> Kept[Item]:
            return await source.load()

        self.app = application(router)


ITEM = Item(id=1, name="a")
JSON = {"id": 1, "name": "a"}
PATHS = ["/public", "/personal", "/threaded", "/either", "/clients"]


async def life(redis: Redis) -> float:
    (key,) = await value_keys(redis)
    return await redis.pttl(key) / 1000


@pytest.mark.parametrize("path", PATHS)
async def test_a_response_is_kept_for_its_own_time(cache: Cache, redis: Redis, path: str) -> None:
    source = Source[Kept[Any]](keep(ITEM, ttl=2 * TTL))
    async with asking(Routes(cache, source).app) as client:
        answers = [await client.get(path) for _ in range(2)]
    assert [answer.json() for answer in answers] == [JSON] * 2
    assert [status(answer) for answer in answers] == ["fwd=miss", "hit"]
    assert TTL < await life(redis) <= 2 * TTL


@pytest.mark.parametrize("path", PATHS)
async def test_one_that_is_not_kept_here_is_kept_nowhere(cache: Cache, path: str) -> None:
    source = Source[Kept[Any]](do_not_keep(ITEM))
    async with asking(Routes(cache, source).app) as client:
        answers = [await client.get(path) for _ in range(3)]
    assert [answer.json() for answer in answers] == [JSON] * 3
    assert {status(answer) for answer in answers} == {"fwd=miss"}
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    assert source.loads == 3


async def test_requests_at_the_same_moment_share_it(cache: Cache) -> None:
    source = Source[Kept[Any]](do_not_keep(ITEM))
    source.hold()
    async with asking(Routes(cache, source).app) as client:
        asked = [asyncio.create_task(client.get("/public")) for _ in range(20)]
        await until(lambda: waiting_callers(cache) == 20)
        source.release()
        answers = await asyncio.gather(*asked)
    assert [answer.json() for answer in answers] == [JSON] * 20
    assert source.loads == 1


async def test_clients_keep_it_no_longer_than_the_service(cache: Cache) -> None:
    source = Source[Kept[Any]](keep(ITEM, ttl=6))
    async with asking(Routes(cache, source).app) as client:
        control = (await client.get("/clients")).headers["cache-control"]
    assert control in {f"public, max-age={left}" for left in range(7)}


@pytest.mark.parametrize(("control", "told"), [(None, "no-store"), ("max-age=7", "max-age=7")])
async def test_a_response_of_its_own_is_kept_likewise(
    cache: Cache, redis: Redis, control: str | None, told: str
) -> None:
    headers = {"cache-control": control} if control else {}
    source = Source[Kept[Any]](do_not_keep(PlainTextResponse("x", headers=headers)))
    async with asking(Routes(cache, source).app) as client:
        answers = [await client.get("/text") for _ in range(2)]
        assert [(one.text, one.headers["cache-control"]) for one in answers] == [("x", told)] * 2
        assert source.loads == 2
        source.value = keep(PlainTextResponse("y"), ttl=30)
        assert [(await client.get("/text")).text for _ in range(2)] == ["y", "y"]
    assert source.loads == 3
    assert await life(redis) <= 30


async def test_an_error_says_it_with_its_cache_control(cache: Cache) -> None:
    source = Source[Kept[Any]](keep(ITEM))
    async with asking(Routes(cache, source).app) as client:
        answers = [await client.get("/missing") for _ in range(2)]
    assert [(one.status_code, one.headers["cache-control"]) for one in answers] == [
        (404, "no-store"), (404, "no-store")
    ]  # fmt: skip
    assert source.loads == 2


async def test_what_anybody_can_make_up_is_kept_for_a_minute_all_the_same(
    cache: Cache, redis: Redis
) -> None:
    source = Source[Kept[Any]](keep(ITEM, ttl=100 * TTL))
    async with asking(Routes(cache, source).app) as client:
        for _ in range(2):
            assert (await client.get("/made-up?cursor=1")).json() == JSON
            assert await life(redis) <= SECOND_ASK_SECONDS


async def test_the_api_document_has_the_value_alone(cache: Cache) -> None:
    source = Source[Kept[Any]](keep(ITEM))
    document = Routes(cache, source).app.openapi()
    for path in PATHS:
        content = document["paths"][path]["get"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Item"}
    assert not [name for name in document["components"]["schemas"] if "Kept" in name]
