"""The middleware answers hits before the router does, and never otherwise than it would."""

import asyncio
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import unquote
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, StringConstraints
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Host, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.cache.http.route_table import RouteMemo
from devservers.valkey import EmbeddedValkey
from tests.core.cache.harness import open_cache
from tests.core.cache.http.serving import Item, application, asking, exchange, serving, status
from tests.support.wire import Wire

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def lower(text: str) -> str:
    return text.lower()


def many_routes(cached: Callable[[str], Decorator]) -> APIRouter:
    """Parameters of every kind, and routes that compete for the same paths."""
    router = APIRouter()

    @router.get("/int/special")
    async def special() -> str:
        return "special"

    @router.get("/int/{number}")
    @cached("int")
    async def integer(number: int, extra: int = 0) -> list[str]:
        return [repr(number), repr(extra)]

    @router.get("/str/{text}")
    @cached("str")
    async def string(text: str, q: str | None = None) -> list[str]:
        return [repr(text), repr(q)]

    @router.get("/uuid/{id_}")
    @cached("uuid")
    async def uuid(id_: UUID) -> str:
        return str(id_)

    @router.get("/bool")
    @cached("bool")
    async def boolean(flag: bool = False, other: bool | None = None) -> list[str]:
        return [repr(flag), repr(other)]

    @router.get("/bounded/{number}")
    @cached("bounded")
    async def bounded(
        number: Annotated[int, Path(ge=0, le=20)], limit: Annotated[int, Query(ge=1)] = 5
    ) -> list[int]:
        return [number, limit]

    @router.get("/changed/{text}")
    @cached("changed")
    async def changed(text: Annotated[str, AfterValidator(lower)]) -> str:
        return text

    @router.get("/stripped")
    @cached("stripped")
    async def stripped(
        text: Annotated[str, StringConstraints(strip_whitespace=True)] = "",
    ) -> str:
        return text

    @router.get("/enum/{colour}")
    @cached("enum")
    async def enum(colour: Colour) -> str:
        return repr(colour)

    @router.get("/many")
    @cached("many")
    async def many(n: Annotated[list[int] | None, Query()] = None) -> str:
        return repr(n)

    @router.get("/alias")
    @cached("alias")
    async def alias(value: Annotated[int, Query(alias="a-b")]) -> int:
        return value

    @router.get("/path/{rest:path}")
    @cached("path")
    async def path(rest: str) -> str:
        return rest

    @router.get("/conv/{number:int}")
    @cached("conv")
    async def convertor(number: int) -> str:
        return repr(number)

    @router.get("/float/{number}")
    @cached("float")
    async def floating(number: float) -> str:
        return repr(number)

    @router.get("/{anything}/fallback")
    @cached("fallback")
    async def fallback(anything: str) -> str:
        return anything

    return router


# One thing per word, blanks aside: spellings of numbers, booleans, enums, escapes, UUIDs.
WORDS = """
    0 1 7 07 -0 -1 +7 %207 7%20 7.0 1e2 1_0 ٣ 21 99999999999999999999 true True on yes false off
    null None red RED blue special a+b a%20b %37 %2F a%2Fb %00 %ff é ABC %20x%20 .. . fallback & =
    6f2c1f4e-3c9a-4d0e-9f3a-0d2f7c1b5a11 6F2C1F4E-3C9A-4D0E-9F3A-0D2F7C1B5A11
    {6f2c1f4e-3c9a-4d0e-9f3a-0d2f7c1b5a11} 6f2c1f4e3c9a4d0e9f3a0d2f7c1b5a11
"""
PIECES = ["", *WORDS.split()]
STARTS = ["int", "str", "uuid", "bool", "bounded", "changed", "stripped", "enum", "many", "alias"]
STARTS += ["path", "conv", "float", "other", "7"]
NAMES = ["extra", "q", "flag", "other", "limit", "text", "n", "a-b", "a_b", "junk", "value"]
paths = st.builds(
    lambda start, rest, end: "/" + "/".join([start, *rest]) + end,
    st.sampled_from(["", *STARTS]),
    st.lists(st.sampled_from(PIECES), max_size=2),
    st.sampled_from(["", "", "", "/"]),
)
queries = st.lists(
    st.builds(
        lambda name, mark, value: name + mark + value,
        st.sampled_from(NAMES),
        st.sampled_from(["=", "=", "=", ""]),
        st.sampled_from(PIECES),
    ),
    max_size=3,
).map("&".join)
Answer = tuple[int, bytes, dict[bytes, bytes]]


async def ask(app: FastAPI, path: str, query: str) -> Answer:
    """Send what no HTTP client would, as uvicorn would pass it on."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1"}
    scope |= {"method": "GET", "scheme": "http", "server": ("service", 80), "headers": []}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode()}
    await app(scope, receive, send)
    body = b"".join(message["body"] for message in sent[1:])
    return sent[0]["status"], body, dict(sent[0]["headers"])


@pytest.fixture(scope="module")
def compare(shared_server: EmbeddedValkey) -> Iterator[Callable[[str, str], None]]:
    """Asks an application without a cache, which is the specification, and one with a cache."""
    plain = FastAPI()
    plain.include_router(many_routes(lambda name: lambda function: function))

    async def check(path: str, query: str) -> None:
        status, body, headers = await ask(plain, path, query)
        for _ in range(2):  # a miss, perhaps, and a hit
            answer = await ask(cached, path, query)
            assert answer[:2] == (status, body)
            for name in (b"content-type", b"content-length", b"location"):
                assert answer[2].get(name) == headers.get(name)

    with asyncio.Runner() as runner:
        opened = open_cache(shared_server.url)
        cache = runner.run(opened.__aenter__())
        cached = application(many_routes(lambda name: cache.policy(name, ttl=60).http(public=True)))
        yield lambda path, query: runner.run(check(path, query))
        runner.run(opened.__aexit__(None, None, None))


@settings(max_examples=1000, deadline=None)
@given(path=paths, query=queries)
def test_it_answers_as_the_router_does(
    compare: Callable[[str, str], None], path: str, query: str
) -> None:
    compare(path, query)


class Calls:
    """What ran for a request."""

    def __init__(self) -> None:
        self.of_function = 0
        self.of_dependency = 0


def counted(cache: Cache, calls: Calls, **options: Any) -> APIRouter:
    router = APIRouter()

    async def needed() -> str:
        calls.of_dependency += 1
        return "needed"

    @router.get("/items/{item_id}")
    @cache.policy("item", ttl=60, **options).http(public=True, ignore=["source"])
    async def read(
        item_id: int, source: Annotated[str, Depends(needed)], page: int = 1, q: str = ""
    ) -> Item:
        calls.of_function += 1
        return Item(id=item_id)

    return router


async def test_a_hit_is_one_round_trip_and_runs_nothing(cache: Cache, wire: Wire) -> None:
    calls = Calls()
    async with asking(application(counted(cache, calls))) as client:
        await client.get("/items/1")
        assert (calls.of_function, calls.of_dependency) == (1, 1)
        wire.writes.clear()
        assert status(await client.get("/items/1")) == "hit"
    assert len(wire) == 1
    assert (calls.of_function, calls.of_dependency) == (1, 1)


async def test_a_miss_reads_no_entry_twice(cache: Cache, wire: Wire) -> None:
    async with asking(application(counted(cache, Calls()))) as client:
        await client.get("/items/1")
        wire.writes.clear()
        await client.get("/items/2")
    assert len(wire) == 3  # read, lease, store


async def test_the_keys_of_a_request_are_made_once(cache: Cache) -> None:
    asked: list[int] = []

    def tags(number: int) -> list[str]:
        asked.append(number)
        return [f"number:{number}"]

    router = APIRouter()

    @router.get("/numbers/{number}")
    @cache.policy("number", ttl=60).http(public=True, tags=tags)
    async def read(number: int) -> int:
        return number

    async with asking(application(router)) as http:
        for number, kind in ((1, "fwd=miss"), (1, "hit"), (2, "fwd=miss")):
            response = await http.get(f"/numbers/{number}")
            assert (response.json(), status(response)) == (number, kind)
        assert asked == [1, 2]
        await cache.invalidate_tags("number:1")  # it is by this tag
        assert status(await http.get("/numbers/1")) == "fwd=miss"


@pytest.mark.parametrize(
    "change",
    [{"path": "/numbers/2"}, {"query_string": b"add=1"}, {"path": "/others/2"}],
    ids=["path", "query", "route"],
)
async def test_what_was_read_is_for_the_request_it_was_read_for(
    cache: Cache, change: dict[str, Any]
) -> None:
    """A middleware inside of the cache may make it another request."""
    router = APIRouter()

    @router.get("/numbers/{number}")
    @cache.policy("number", ttl=60).http(public=True)
    async def read(number: int, add: int = 0) -> int:
        return number + add

    @router.get("/others/{number}")
    @cache.policy("other", ttl=60).http(public=True)
    async def read_other(number: int) -> str:
        return f"other {number}"

    class Rewriting:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            is_marked = any(name == b"x-rewrite" for name, _ in scope.get("headers", ()))
            await self._app({**scope, **change} if is_marked else scope, receive, send)

    app = FastAPI()
    app.include_router(router)
    app.add_middleware(Rewriting)
    app.add_middleware(HttpCacheMiddleware)
    async with asking(app) as http:
        answer = (await http.get("/numbers/1", headers={"x-rewrite": "yes"})).json()
        assert answer == ("other 2" if change.get("path") == "/others/2" else 2)
        assert (await http.get("/numbers/1")).json() == 1


@pytest.mark.parametrize(
    "same",
    [
        ["?page=2&q=x", "?q=x&page=2"],
        ["", "?page=1", "?q=", "?page=1&q="],
        ["?utm_source=a", "?utm_source=b&fbclid=1", "?PAGE=2"],
        ["?q=a%20b", "?q=a+b"],
        ["?page=2", "?page=1&page=2"],
    ],
)
async def test_what_means_the_same_is_one_entry(cache: Cache, same: list[str]) -> None:
    calls = Calls()
    async with asking(application(counted(cache, calls))) as client:
        answers = [await client.get(f"/items/1{query}") for query in same]
    assert calls.of_function == 1
    assert len({answer.content for answer in answers}) == 1


async def test_what_differs_is_kept_apart(cache: Cache) -> None:
    calls = Calls()
    different = [
        "1",
        "2",
        "1?page=2",
        "1?page=3",
        "1?q=x",
        "1?q=X",
        "1?page=2&q=x",
        "1?q=x%26page=2",
    ]
    async with asking(application(counted(cache, calls))) as client:
        for _ in range(2):
            for path in different:
                await client.get(f"/items/{path}")
    assert calls.of_function == len(different)


async def test_head_and_get_share_an_entry(cache: Cache) -> None:
    calls = Calls()
    async with asking(application(counted(cache, calls))) as client:
        head = await client.head("/items/1")
        get = await client.get("/items/1")
    assert calls.of_function == 1
    assert (head.content, status(get)) == (b"", "hit")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_the_routers(cache: Cache, method: str) -> None:
    async with asking(application(counted(cache, Calls()))) as client:
        await client.get("/items/1")
        answer = await client.request(method, "/items/1")
    assert answer.status_code == 405
    assert "cache-status" not in answer.headers


async def test_middleware_outside_of_it_sees_hits_and_may_refuse_them(cache: Cache) -> None:
    async def guard(request: Request, call_next: Any) -> Any:
        if "x-token" not in request.headers:
            raise HTTPException(401)
        answer = await call_next(request)
        answer.headers["x-seen"] = "yes"
        return answer

    app = application(counted(cache, Calls()))
    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)  # later, so outside
    async with asking(app) as client:
        for expected in ("fwd=miss", "hit"):
            answer = await client.get("/items/1", headers={"x-token": "t"})
            assert (status(answer), answer.headers["x-seen"]) == (expected, "yes")
        assert (await client.get("/items/1")).status_code >= 400


async def test_behind_a_prefix_that_a_proxy_strips(cache: Cache) -> None:
    calls = Calls()
    async with serving(application(counted(cache, calls)), root_path="/api") as port:
        answers = [await exchange(port, "GET /items/1 HTTP/1.1\r\n") for _ in range(2)]
    assert [answer.split()[1] for answer in answers] == [b"200", b"200"]
    assert [b"; hit;" in answer for answer in answers] == [False, True]
    assert calls.of_function == 1


async def test_mounted_in_another_application(cache: Cache) -> None:
    calls, outer = Calls(), FastAPI()
    outer.mount("/api", application(counted(cache, calls)))
    async with asking(outer) as client:
        answers = [await client.get("/api/items/1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert calls.of_function == 1


async def test_a_host_in_front_that_looks_at_more_than_the_path_is_asked_every_time(
    cache: Cache,
) -> None:
    app, other = application(counted(cache, Calls())), FastAPI()

    @other.get("/items/{item_id}")
    async def elsewhere(item_id: int) -> str:
        return "elsewhere"

    app.router.routes.insert(0, Host("admin.service", other))
    async with asking(app) as client:
        for _ in range(2):
            assert (await client.get("/items/1")).json()["id"] == 1
        answer = await client.get("/items/1", headers={"host": "admin.service"})
    assert answer.json() == "elsewhere"


class Versioned(APIRoute):
    """Takes requests by a header, as FastAPI's documentation of custom routes allows."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if dict(scope["headers"]).get(b"x-version") != b"2":
            return Match.NONE, {}
        return super().matches(scope)


@pytest.mark.parametrize("included", [False, True])
@pytest.mark.parametrize("kind", [{"public": True}, {"vary_by": lambda: "somebody"}])
async def test_a_route_that_looks_at_more_than_the_path_is_asked_every_time(
    cache: Cache, kind: dict[str, Any], included: bool
) -> None:
    app = application()
    router = APIRouter(route_class=Versioned)
    router = router if included else app.router
    app.router.route_class = Versioned

    @router.get("/page")
    @cache.policy("second", ttl=60).http(**kind)
    async def second() -> int:
        return 2

    if included:
        app.include_router(router)
    app.router.route_class = APIRoute

    @app.get("/page")
    @cache.policy("first", ttl=60).http(**kind)
    async def first() -> int:
        return 1

    async with asking(app) as client:
        for _ in range(2):
            for version, expected in ((None, 1), ("2", 2), (None, 1), (None, 1), ("2", 2)):
                headers = {"x-version": version} if version else {}
                assert (await client.get("/page", headers=headers)).json() == expected


class Stamped(APIRoute):
    """Adds a header to each answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def stamped(request: Request) -> Response:
            answer = await handle(request)
            answer.headers["x-stamped"] = "yes"
            return answer

        return stamped


async def test_what_a_route_class_adds_is_on_hits_too(cache: Cache) -> None:
    router = APIRouter(route_class=Stamped)

    @router.get("/page")
    @cache.policy("page", ttl=60).http(public=True)
    async def page() -> str:
        return "page"

    async with asking(application(router)) as client:
        for expected in ("fwd=miss", "hit", "hit"):
            answer = await client.get("/page")
            assert (status(answer), answer.headers["x-stamped"]) == (expected, "yes")


@pytest.mark.parametrize(
    ("path", "query", "is_known"),
    [
        ("/items/1", "", True),
        ("/items/1", "page=2", True),
        ("/items/1", "q=x&page=2", True),
        ("/mine/1", "", True),
        ("/items/x", "", False),  # a mistake
        ("/items/1", "page=x", False),
        ("/items/1", "junk=2", False),  # whoever makes it up makes up many
        ("/mine/1", "junk=2", False),
        ("/items/1", f"q={'x' * 1000}", False),
        (f"/text/{'x' * 1000}", "", False),
        (f"/text/{'x' * 1000}\N{WATERMELON}", "", False),
        ("/nowhere", "", False),
    ],
)
async def test_what_is_remembered_of_a_request(
    cache: Cache, path: str, query: str, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(RouteMemo, "keep", lambda *what: kept.append(what))
    app = application(counted(cache, Calls()))

    @app.get("/mine/{item_id}")
    @cache.policy("mine", ttl=60).http(vary_by=lambda: "me")
    async def mine(item_id: int) -> int:
        return item_id

    @app.get("/text/{text}")
    @cache.policy("text", ttl=60).http(public=True)
    async def text(text: str) -> str:
        return text

    await ask(app, path, query)
    monkeypatch.undo()
    for places, key, place in kept:
        places.keep(key, place)
    assert [key for places, key, _ in kept if key in places.young] == (
        [(path, query.encode())] if is_known else []
    )


def test_places_are_bounded_in_bytes() -> None:
    """And those that are asked for again survive any number that are asked for once."""
    places: RouteMemo[str] = RouteMemo(sys.getsizeof, max_bytes=200_000)
    popular = ("/popular", b"")
    places.keep(popular, "popular")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(20_000):
        assert (places.young.get(popular) or places.find(popular)) == "popular"
        path = f"/{number}/{'x' * (number % 500)}\N{WATERMELON}"
        places.keep((path, b"q"), "\N{WATERMELON}" * 200)
        if number % 1_000 == 0:
            assert tracemalloc.get_traced_memory()[0] - before < 250_000
    tracemalloc.stop()


async def test_more_addresses_than_it_remembers(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RouteMemo.__init__, "__defaults__", (10_000,))
    async with asking(application(counted(cache, Calls()))) as client:
        for expected in ("fwd=miss", "hit", "hit"):
            for number in range(10):
                answer = await client.get(f"/items/{number}?page={number + 1}")
                assert (answer.json()["id"], status(answer)) == (number, expected)


async def test_clients_that_go_away_in_the_middle_harm_nobody(cache: Cache) -> None:
    calls = Calls()
    async with serving(application(counted(cache, calls))) as port:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /items/1 HTTP/1.1\r\nHost: service\r\n\r\n")
            writer.close()
        answer = await exchange(port, "GET /items/1 HTTP/1.1\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert calls.of_function == 1
