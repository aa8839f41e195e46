"""Conditional requests (RFC 9110, 13) and what goes with every answer (RFC 9111, RFC 9211)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, HTTPException, Response

from app.core.cache import Cache
from app.core.cache.http.headers import Freshness, ResponseRenderer
from app.core.cache.http.response import stored_response
from app.core.cache.results import CacheResult, Outcome
from tests.core.cache.conftest import OpenCache
from tests.core.cache.http.serving import Item, application, asking, exchange, serving, status
from tests.support.fastpath import chosen
from tests.support.problems import problem_of

ETAG = "{etag}"


def items(cache: Cache, *, max_age: float = 0, **options: Any) -> APIRouter:
    router = APIRouter()
    policy = cache.policy("item", ttl=60, negative_ttl=30, **options)

    @router.get("/items/{item_id}")
    @policy.http(public=True, max_age=max_age, tags=["items"])
    async def read(item_id: int) -> Item:
        if item_id < 0:
            raise HTTPException(404, "no such item")
        return Item(id=item_id, name="naïve")

    @router.get("/gone")
    @policy.http(public=True)
    async def gone() -> Response:
        return Response(status_code=204)

    return router


def private_items(cache: Cache) -> APIRouter:
    router = APIRouter()

    async def somebody() -> str:
        return "somebody"

    @router.get("/items/{item_id}")
    @cache.policy("mine", ttl=60).http(vary_by=somebody)
    async def read(item_id: int) -> Item:
        return Item(id=item_id, name="naïve")

    return router


@asynccontextmanager
async def warm(router: APIRouter) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.Response]]:
    """A client, and the miss that filled the cache."""
    async with asking(application(router)) as client:
        yield client, await client.get("/items/1")


CONDITIONS = [
    ([("if-none-match", ETAG)], 304),
    ([("if-none-match", f"W/{ETAG}")], 304),  # weak comparison
    ([("if-none-match", f'"other", {ETAG}')], 304),
    ([("if-none-match", f'"other",W/{ETAG} ,"third"')], 304),
    ([("if-none-match", '"other"'), ("if-none-match", ETAG)], 304),  # two fields are one list
    ([("if-none-match", "*")], 304),
    ([("if-none-match", " * ")], 304),
    ([("if-none-match", '"other"')], 200),
    ([("if-none-match", "")], 200),
    ([("if-none-match", "{bare}")], 200),  # no entity tag: its quotes are part of it
    ([("if-none-match", '"*"')], 200),
    ([("if-none-match", f"w/{ETAG}")], 200),  # the W is a capital letter
    ([("if-modified-since", "Tue, 24 Nov 2099 00:00:00 GMT")], 200),  # no Last-Modified to compare
    ([("if-none-match", '"other"'), ("if-modified-since", "Tue, 24 Nov 2099 00:00:00 GMT")], 200),
    ([("if-match", '"other"')], 412),
    ([("if-match", f'"other", {ETAG}')], 200),
    ([("if-match", f"W/{ETAG}")], 200),  # weak for layers that compress; of the same bytes
    ([("if-match", "*")], 200),
    ([("if-match", '"other"'), ("if-none-match", ETAG)], 412),  # it comes first
    ([("if-match", ETAG), ("if-none-match", ETAG)], 304),
    ([("if-none-match", '"a,{bare}"')], 200),  # a comma in a tag
    ([("range", "bytes=0-3")], 200),  # no Accept-Ranges is promised
    ([("if-none-match", ETAG), ("cache-control", "no-cache")], 304),
    ([("cache-control", "no-cache")], 200),
    ([("cache-control", "max-age=0"), ("pragma", "no-cache")], 200),
]


@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize(("headers", "expected"), CONDITIONS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions(
    cache: Cache, method: str, headers: list[tuple[str, str]], expected: int, private: bool
) -> None:
    async with warm(private_items(cache) if private else items(cache)) as (client, miss):
        etag = miss.headers["etag"]
        opaque = etag.removeprefix("W/")
        sent = [
            (name, value.replace(ETAG, opaque).replace("{bare}", opaque.strip('"')))
            for name, value in headers
        ]
        response = await client.request(method, "/items/1", headers=sent)
    assert response.status_code == expected
    assert status(response) == "hit"
    assert response.headers["etag"] == etag
    if expected == 304 or method == "HEAD":
        assert response.content == b""
    elif expected == 412:
        assert problem_of(response)["detail"].startswith("If-Match")
    else:
        assert response.content == miss.content


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("private", "own", "control"),
    [
        (False, None, "no-cache"),
        (True, None, "private, no-cache"),
        (False, "max-age=30", "no-cache"),
    ],
)
async def test_a_412_is_kept_by_no_cache_in_between(
    cache: Cache, private: bool, own: str | None, control: str, fast: bool
) -> None:
    """It would be everybody's answer, and anybody can ask for one."""
    router = APIRouter()
    whose: dict[str, Any] = {"vary_by": lambda: "ann"} if private else {"public": True}

    @router.get("/item")
    @cache.policy("kept", ttl=60).http(max_age=30, **whose)
    async def read() -> Response:
        return Response("x", headers={"cache-control": own} if own else {})

    with chosen(fast=fast):
        async with asking(application(router)) as http:
            kept = await http.get("/item")
            for _ in range(2):
                refused = await http.get("/item", headers={"if-match": '"other"'})
                assert refused.status_code == 412
                assert refused.headers["cache-control"] == control
    # The control: the response itself may be kept.
    assert "max-age=30" in kept.headers["cache-control"]


async def test_a_304_says_what_the_200_would_and_nothing_of_its_body(cache: Cache) -> None:
    async with warm(items(cache, max_age=30)) as (client, miss):
        response = await client.get("/items/1", headers={"if-none-match": miss.headers["etag"]})
    assert response.status_code == 304
    assert "content-type" not in response.headers
    assert "content-length" not in response.headers
    for name in ("etag", "cache-control"):
        assert response.headers[name] == miss.headers[name]


async def test_a_miss_is_conditional_too(cache: Cache) -> None:
    """The client's copy may be older than the cache's entry, and still be right."""
    async with warm(items(cache)) as (client, miss):
        await cache.invalidate_tags("items")
        response = await client.get("/items/1", headers={"if-none-match": miss.headers["etag"]})
    assert (response.status_code, status(response)) == (304, "fwd=miss")


async def test_hit_and_miss_are_the_same_bytes_in_every_process(
    cache: Cache, another: OpenCache
) -> None:
    apps = [application(items(each)) for each in (cache, await another())]
    answers = []
    for app in [*apps, apps[0]]:
        async with asking(app) as client:
            answers.append(await client.get("/items/1"))
    assert [status(answer) for answer in answers] == ["fwd=miss", "hit", "hit"]
    assert len({answer.content for answer in answers}) == 1
    varying = ("age", "cache-status")
    told = [[h for h in answer.headers.multi_items() if h[0] not in varying] for answer in answers]
    assert told[0] == told[1] == told[2]


async def test_an_etag_does_not_change_when_the_same_is_computed_again(cache: Cache) -> None:
    async with warm(items(cache)) as (client, first):
        await cache.invalidate_tags("items")
        again = await client.get("/items/1")
        other = await client.get("/items/2")
    assert status(again) == "fwd=miss"
    assert again.headers["etag"] == first.headers["etag"] != other.headers["etag"]
    assert first.headers["etag"].startswith('W/"')  # a layer outside may compress it


async def test_errors_have_no_etag_and_are_never_304(cache: Cache) -> None:
    async with asking(application(items(cache))) as client:
        answers = [await client.get("/items/-1", headers={"if-none-match": "*"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert {answer.content for answer in answers} == {b'{"detail":"no such item"}'}
    assert all("etag" not in answer.headers for answer in answers)


async def test_an_answer_without_a_body_has_no_length(cache: Cache) -> None:
    async with asking(application(items(cache))) as client:
        for expected in ("fwd=miss", "hit"):
            answer = await client.get("/gone")
            assert (answer.status_code, answer.content, status(answer)) == (204, b"", expected)
            assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    ("max_age", "options", "expected"),
    [
        (0, {"stale_while_revalidate": 30}, "public, max-age=0, must-revalidate"),
        (30, {}, "public, max-age=30"),
        (30.9, {"stale_while_revalidate": 10}, "public, max-age=30, stale-while-revalidate=10"),
        (
            30,
            {"stale_while_revalidate": 10, "stale_if_error": 60},
            "public, max-age=30, stale-while-revalidate=10, stale-if-error=60",
        ),
    ],
)
async def test_what_clients_may_do_with_it(
    cache: Cache, max_age: float, options: dict[str, Any], expected: str
) -> None:
    async with warm(items(cache, max_age=max_age, **options)) as (client, miss):
        hit = await client.get("/items/1")
    assert miss.headers["cache-control"] == hit.headers["cache-control"] == expected


async def test_clients_may_keep_it_from_when_they_get_it(cache: Cache) -> None:
    """And not beyond the moment from which it is computed anew."""
    renderer = ResponseRenderer(Freshness("svc", True, 3, 0, 0))
    stored = stored_response(200, [], b"body")
    kept = {}
    for age, left in ((0, 60), (3, 57), (50, 10), (58, 2), (60, 0), (70, -10)):
        loaded = CacheResult(stored, Outcome.HIT, 0, (age + left) * 1000)
        headers = dict(renderer.render(stored, Outcome.HIT, loaded, age * 1000, []).headers)
        assert headers[b"age"] == b"%d" % age
        lifetime = int(headers[b"cache-control"].partition(b"max-age=")[2])
        kept[age] = max(lifetime - age, 0)
    assert kept == {0: 3, 3: 3, 50: 3, 58: 2, 60: 0, 70: 0}


async def test_how_it_was_answered(cache: Cache) -> None:
    async with warm(items(cache)) as (client, miss):
        hit = await client.get("/items/1")
    assert miss.headers["cache-status"] == "svc; fwd=miss"
    assert miss.headers["age"] == hit.headers["age"] == "0"
    name, hit_or_not, ttl = hit.headers["cache-status"].split("; ")
    assert (name, hit_or_not) == ("svc", "hit")
    assert 0 < int(ttl.removeprefix("ttl=")) <= 60


async def test_on_a_real_connection_answers_do_not_run_into_each_other(cache: Cache) -> None:
    """A body after HEAD, 204 or 304, or a wrong length, would spoil the next answer."""
    async with serving(application(items(cache))) as port:
        first = await exchange(port, "GET /items/1 HTTP/1.1\r\n")
        etag = next(
            line.split(b": ")[1] for line in first.split(b"\r\n") if line.startswith(b"etag")
        ).decode()
        requests = [
            "HEAD /items/1 HTTP/1.1\r\n",
            f"GET /items/1 HTTP/1.1\r\nIf-None-Match: {etag}\r\n",
            "GET /gone HTTP/1.1\r\n",
            "HEAD /items/-1 HTTP/1.1\r\n",
            "GET /items/1 HTTP/1.1\r\n",
        ]
        for _ in range(2):
            answer = await exchange(port, *requests)
            statuses = [part.split(b" ")[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
            assert statuses == [b"200", b"304", b"204", b"404", b"200"]
            assert answer.count('{"id":1,"name":"naïve"}'.encode()) == 1
            assert answer.endswith('{"id":1,"name":"naïve"}'.encode())
