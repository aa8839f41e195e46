"""What a cached route answers and nobody keeps: errors, streams, what dependencies have changed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse

from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from tests.core.cache.http.serving import Item, application, asking, status

KINDS = {
    "404": (404, {}),
    "a 404 raised again": (404, {}),
    "a 403": (403, {}),
    "an error of a dependency": (401, {}),
    "a mistake": (422, {}),
    "a bug": (500, {}),
    "a stream": (200, {}),
    "a file": (200, {}),
    "a cookie": (200, {}),
    "a redirect": (307, {}),
    "says so itself": (200, {"cache-control": "max-age=7"}),
    "an error that says so itself": (404, {"cache-control": "no-store"}),
}


def every_kind(cache: Cache, **kind: Any) -> FastAPI:
    """A route that answers in the way that its path says."""
    router = APIRouter()

    async def guard(how: str) -> None:
        if how == "an error of a dependency":
            raise HTTPException(401)

    @router.get("/{how}", dependencies=[Depends(guard)])
    @cache.policy("kinds", ttl=60).http(**kind)
    async def read(how: str, number: int = 0) -> Response:
        match how:
            case "404" | "a 404 raised again":
                raise HTTPException(404, "no such thing")
            case "a 403":
                raise HTTPException(403)
            case "a bug":
                raise RuntimeError
            case "a stream":
                return StreamingResponse(iter(["a", "b"]))
            case "a file":
                return FileResponse(Path(__file__))
            case "a cookie":
                return Response("x", headers={"set-cookie": "a=b"})
            case "a redirect":
                return RedirectResponse("/elsewhere")
            case "says so itself":
                return StreamingResponse(iter(["a"]), headers={"cache-control": "max-age=7"})
            case "an error that says so itself":
                raise HTTPException(404, headers={"cache-control": "no-store"})
        return JSONResponse(how)

    app = Application()
    app.include_router(router)
    app.add_middleware(HttpCacheMiddleware)
    return app


async def who() -> str:
    return "somebody"


@pytest.mark.parametrize("how", KINDS)
async def test_no_proxy_may_keep_an_answer_for_one_person(cache: Cache, how: str) -> None:
    expected, headers = KINDS[how]
    query = "?number=x" if how == "a mistake" else ""
    async with asking(every_kind(cache, vary_by=who)) as client:
        for method in ("GET", "GET", "HEAD"):
            answer = await client.request(method, f"/{how}{query}")
            assert answer.status_code == expected
            if headers:
                assert answer.headers["cache-control"] == headers["cache-control"]
            else:
                assert "private" in answer.headers["cache-control"]
                assert answer.headers["vary"] == "Authorization, Cookie"


@pytest.mark.parametrize("how", KINDS)
async def test_what_is_not_kept_here_is_kept_nowhere(cache: Cache, how: str) -> None:
    expected, headers = KINDS[how]
    query = "?number=x" if how == "a mistake" else ""
    async with asking(every_kind(cache, public=True)) as client:
        for _ in range(2):
            answer = await client.get(f"/{how}{query}")
            assert answer.status_code == expected
            control = answer.headers["cache-control"]
            if headers:
                assert control == headers["cache-control"]
            elif expected != 404:
                assert control == "no-cache"


async def test_an_error_that_is_kept_says_how_long(cache: Cache) -> None:
    router = APIRouter()

    @router.get("/{item_id}")
    @cache.policy("item", ttl=60, negative_ttl=20, jitter=0).http(public=True, max_age=5)
    async def read(item_id: int) -> Item:
        raise HTTPException(404, "no such item")

    async with asking(application(router)) as client:
        for expected in ("fwd=miss", "hit", "hit"):
            answer = await client.get("/1")
            age = int(answer.headers["age"])
            assert status(answer) == expected
            assert answer.headers["cache-control"] == f"public, max-age={age + 5}"


Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]


async def changes(response: Response, to: int | None = None) -> None:
    if to:
        response.status_code = to
        response.headers["x-changed"] = "yes"


def changed(decorate: Decorate) -> APIRouter:
    router = APIRouter()

    @router.get("/", dependencies=[Depends(changes)])
    @decorate
    async def read() -> str:
        return "x"

    return router


@pytest.mark.parametrize("kind", [{"public": True}, {"vary_by": who}], ids=["public", "private"])
@pytest.mark.parametrize("query", ["", "?to=410", "?to=201", "?to=204"])
async def test_a_dependency_may_change_the_status(
    cache: Cache, query: str, kind: dict[str, Any]
) -> None:
    policy = cache.policy("p", ttl=60)
    plain, cached = FastAPI(), application(changed(policy.http(**kind)))
    plain.include_router(changed(lambda function: function))
    async with asking(plain) as client:
        right = await client.get(f"/{query}")
    async with asking(cached) as client:
        for _ in range(2):
            answer = await client.get(f"/{query}")
            assert (answer.status_code, answer.content) == (right.status_code, right.content)
            for name in ("content-length", "content-type", "x-changed"):
                assert answer.headers.get(name) == right.headers.get(name)
            if query:
                assert "max-age" not in answer.headers["cache-control"]
        conditional = await client.get(f"/{query}", headers={"if-none-match": "*"})
        assert conditional.status_code == (right.status_code if query else 304)


async def controls(response: Response) -> None:
    response.headers["cache-control"] = "no-store"
    response.headers["etag"] = '"of the dependency"'


async def test_a_dependency_may_say_how_it_is_kept(cache: Cache) -> None:
    router = APIRouter()

    @router.get("/", dependencies=[Depends(controls)])
    @cache.policy("p", ttl=60).http(public=True, max_age=30)
    async def read() -> str:
        return "x"

    async with asking(application(router)) as client:
        for _ in range(2):
            answer = await client.get("/")
            assert answer.headers.get_list("cache-control") == ["no-store"]
            assert answer.headers.get_list("etag") == ['"of the dependency"']


def with_own_headers(cache: Cache, headers: dict[str, str]) -> FastAPI:
    router = APIRouter()

    @router.get("/")
    @cache.policy("p", ttl=60).http(public=True)
    async def read() -> JSONResponse:
        return JSONResponse(["x" * 10] * 100, headers=headers)

    return application(router)


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', '"a,b"'])
async def test_the_headers_of_a_route_stay(cache: Cache, etag: str) -> None:
    app = with_own_headers(cache, {"etag": etag, "cache-control": "max-age=7, immutable"})
    async with asking(app) as client:
        for headers, expected in (
            ({}, 200),
            ({}, 200),
            ({"if-none-match": etag}, 304),
            ({"if-none-match": '"v2"'}, 200),
            ({"if-match": etag}, 200),
            ({"if-match": '"v2"'}, 412),
        ):
            answer = await client.get("/", headers=headers)
            assert answer.status_code == expected
            assert answer.headers.get_list("etag") == [etag]
            if expected != 412:
                assert answer.headers.get_list("cache-control") == ["max-age=7, immutable"]


async def test_what_is_compressed_outside_has_the_headers_for_it(cache: Cache) -> None:
    app = with_own_headers(cache, {})
    app.add_middleware(GZipMiddleware)
    async with asking(app) as client:
        for _ in range(2):
            zipped = await client.get("/", headers={"accept-encoding": "gzip"})
            plain = await client.get("/", headers={"accept-encoding": "identity"})
            assert zipped.headers["content-encoding"] == "gzip"
            assert "content-encoding" not in plain.headers
            # Of two encodings one entity tag has to be a weak one.
            assert zipped.headers["etag"] == plain.headers["etag"]
            assert zipped.headers["etag"].startswith("W/")
        same = {"accept-encoding": "gzip", "if-none-match": zipped.headers["etag"]}
        answer = await client.get("/", headers=same)
        assert (answer.status_code, answer.headers["vary"]) == (304, zipped.headers["vary"])


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def of_tenant(x_tenant: Annotated[str, Header()]) -> AsyncIterator[str]:
    tenant.set(x_tenant)
    yield x_tenant


async def sets_tenant(x_tenant: Annotated[str, Header()]) -> str:
    tenant.set(x_tenant)
    return x_tenant


@pytest.mark.parametrize("principal", [sets_tenant, of_tenant])
async def test_a_load_for_one_principal_sees_the_context_of_the_request(
    cache: Cache, principal: Callable[..., Any]
) -> None:
    router = APIRouter()

    async def loads_more() -> str:
        return tenant.get()

    @router.get("/")
    @cache.policy("p", ttl=60).http(vary_by=principal)
    async def read() -> list[str]:
        # What it loads on the way has a context of its own, and the turn of this one.
        return [tenant.get(), await inner.get_or_load("one for all", loads_more)]

    @router.get("/sync")
    @cache.policy("sync", ttl=60).http(vary_by=principal)
    def read_in_thread() -> list[str]:
        return [tenant.get(), "nobody"]

    inner = cache.policy("inner", ttl=60)
    async with asking(application(router)) as client:
        for path in ("/", "/sync"):
            names = ["acme", "other"] * 3
            answers = await asyncio.gather(
                *(client.get(path, headers={"x-tenant": name}) for name in names)
            )
            assert [answer.json() for answer in answers] == [[name, "nobody"] for name in names]


async def needed(x_count: Annotated[int, Header()]) -> int:
    return x_count


async def of_it(count: Annotated[int, Depends(needed)]) -> int:
    return count


async def test_a_mistake_is_told_once(cache: Cache) -> None:
    """Also where the principal of a cached route and its function need the same dependency."""
    router = APIRouter()

    @router.get("/")
    @cache.policy("p", ttl=60).http(vary_by=of_it)
    async def read(count: Annotated[int, Depends(of_it)]) -> int:
        return count

    app = Application()
    app.include_router(router)
    app.add_middleware(HttpCacheMiddleware)
    async with asking(app) as client:
        answer = await client.get("/", headers={"x-count": "x"})
    (mistake,) = answer.json()["errors"]
    assert (mistake["in"], mistake["pointer"]) == ("header", "#/x-count")
