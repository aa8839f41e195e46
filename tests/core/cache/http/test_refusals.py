"""What cannot be cached safely is refused, when it is decorated or when the service starts."""

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import httpx2
import pytest
import uvicorn
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Request,
    Response,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.middleware.httpsredirect import HTTPSRedirectMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from starlette.middleware.base import BaseHTTPMiddleware
from structlog.testing import capture_logs

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.cache.http.checks import UnsafeRoute
from devservers.waiting import HANG
from tests.core.cache.http.serving import Item, application, asking, serving, status

Cached = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.fixture
def capture() -> Iterator[list[Any]]:
    """What is logged."""
    with capture_logs() as events:
        yield events


async def who() -> str:
    return "somebody"


async def session() -> AsyncIterator[str]:
    yield "session"


async def around_session(inner: Annotated[str, Depends(session)]) -> str:
    return inner


def takes_request(request: Request) -> str:
    return ""


def takes_response(response: Response) -> str:
    return ""


def takes_tasks(tasks: BackgroundTasks) -> str:
    return ""


def takes_session(db: Annotated[str, Depends(session)]) -> str:
    return ""


def takes_anything(what: object) -> str:
    return ""


def returns_what(item_id: int):  # type: ignore[no-untyped-def]  # the point
    return item_id


async def yields() -> AsyncIterator[str]:
    yield ""


def takes_kwargs(**filters: str) -> str:
    return ""


def takes_args(*ids: int) -> str:
    return ""


def takes_by_position(item_id: int, /) -> str:
    return ""


def returns_neither() -> Response | Item:
    return Item(id=1)


def plain() -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (plain, {}, "public=True.*or vary_by="),
        (plain, {"public": True, "vary_by": who}, "either public=True"),
        (plain, {"public": True, "max_age": -1}, "max_age must be 0 seconds or more"),
        (plain, {"public": True, "ignore": ["nothing"]}, "no parameter nothing"),
        (plain, {"public": True, "tags": lambda other: [other]}, "tags of plain depend on other"),
        (takes_request, {"public": True}, r"takes request, which is closed.*a rate limit.*Depends"),
        (takes_request, {"public": True, "ignore": ["request"]}, "takes request, which is closed"),
        (takes_response, {"public": True}, "takes response, which is closed"),
        (takes_tasks, {"public": True}, "takes tasks, which is closed"),
        (takes_session, {"public": True, "ignore": ["db"]}, "takes db, which is closed"),
        (takes_anything, {"public": True}, "cannot be part of a cache key"),
        (returns_what, {"public": True}, "needs a return annotation"),
        (returns_neither, {"public": True}, "has no JSON"),
        (yields, {"public": True}, "yields a stream"),
        (takes_kwargs, {"public": True}, r"takes_kwargs takes '\*\*filters'.*name each parameter"),
        (takes_args, {"vary_by": who}, r"takes_args takes '\*ids'.*name each parameter"),
        (takes_by_position, {"public": True}, "takes_by_position takes 'item_id'"),
    ],
)
async def test_refused_when_decorated(
    cache: Cache, function: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        cache.policy("p", ttl=60).http(**options)(function)


class HasPassword(Item):
    password: str = "secret"


@dataclasses.dataclass
class Case:
    message: str
    route: dict[str, Any] = dataclasses.field(default_factory=dict)
    http: dict[str, Any] = dataclasses.field(default_factory=lambda: {"public": True})
    function: Callable[..., Any] = plain
    app: dict[str, Any] = dataclasses.field(default_factory=dict)
    path: str = "/r"


async def with_bearer(token: Annotated[Any, Depends(HTTPBearer())]) -> str:
    return ""


async def deep(inner: Annotated[str, Depends(with_bearer)]) -> str:
    return inner


def uses_deep(user: Annotated[str, Depends(deep)]) -> str:
    return user


def uses_header(accept_language: Annotated[str, Header()] = "") -> str:
    return ""


def uses_cookie(theme: Annotated[str, Cookie()] = "") -> str:
    return ""


def uses_session(db: str = Depends(around_session)) -> str:
    return db


def of_tenant(tenant: str) -> str:
    return tenant


def ignores_tenant(repository: Annotated[str, Depends(of_tenant)]) -> str:
    return repository


def uses_request(who: Annotated[str, Depends(takes_request)]) -> str:
    return who


def of_connection(connection: HTTPConnection) -> str:
    return str(connection.base_url)


class Links:
    def __init__(self, request: Request) -> None:
        self.home = request.url_for("home")


class LinksOfConnection:
    def __init__(self, deep: Annotated[str, Depends(of_connection)]) -> None:
        self.home = deep


def uses_connection(links: Annotated[str, Depends(of_connection)]) -> str:
    return links


def uses_links(links: Annotated[Links, Depends()]) -> str:
    return ""


def uses_deep_links(links: Annotated[LinksOfConnection, Depends()]) -> str:
    return ""


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def reads_tenant() -> str:
    return tenant.get()


def returns_password() -> HasPassword:
    return HasPassword(id=1)


def returns_page() -> str:
    return "<html>"


CASES = {
    "security": Case("depends on who asks .HTTPBearer.", function=uses_deep),
    "security of the route": Case("HTTPBearer", route={"dependencies": [Depends(with_bearer)]}),
    "security of the app": Case("HTTPBearer", app={"dependencies": [Depends(with_bearer)]}),
    "header": Case("accept-language", function=uses_header),
    "cookie": Case("theme", function=uses_cookie),
    "yield": Case("db comes from a dependency with yield", function=uses_session),
    "yield, not public": Case("with yield", function=uses_session, http={"vary_by": who}),
    "yield, ignored": Case(
        "with yield", function=uses_session, http={"public": True, "ignore": ["db"]}
    ),
    "tenant": Case(
        "ignores repository, which depends on tenant",
        function=ignores_tenant,
        http={"public": True, "ignore": ["repository"]},
        path="/{tenant}/r",
    ),
    "request": Case(
        "who is made from the whole request",
        function=uses_request,
        http={"public": True, "ignore": ["who"]},
    ),
    **{
        function.__name__: Case(
            "links is made from the whole request",
            function=function,
            http={"public": True, "ignore": ["links"]},
        )
        for function in (uses_connection, uses_links, uses_deep_links)
    },
    "context variable": Case("reads the context variable tenant", function=reads_tenant),
    "POST": Case("only GET", route={"methods": ["GET", "POST"]}),
    "status": Case("other than 200", route={"status_code": 201}),
    "exclude": Case("response_model_exclude ", route={"response_model_exclude": {"id"}}),
    "include": Case("response_model_include", route={"response_model_include": {"id"}}),
    "none": Case("response_model_exclude_none", route={"response_model_exclude_none": True}),
    "unset": Case("response_model_exclude_unset", route={"response_model_exclude_unset": True}),
    "alias": Case("response_model_by_alias", route={"response_model_by_alias": False}),
    "model": Case(
        "response_model is not", function=returns_password, route={"response_model": Item}
    ),
    "no model": Case(
        "response_model is not", function=returns_password, route={"response_model": None}
    ),
    "class": Case("HTMLResponse", function=returns_page, route={"response_class": HTMLResponse}),
    "class of the app": Case(
        "HTMLResponse", function=returns_page, app={"default_response_class": HTMLResponse}
    ),
}


def build(cache: Cache, case: Case) -> FastAPI:
    router = APIRouter()
    options = {"methods": ["GET"], **case.route}
    router.add_api_route(
        case.path, cache.policy("p", ttl=60).http(**case.http)(case.function), **options
    )
    return application(router, **case.app)


async def refuses_to_start(app: FastAPI, message: str) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(UnsafeRoute, match=message):
        await app({"type": "lifespan", "state": {}}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_refused_at_start_up(cache: Cache, case: Case) -> None:
    await refuses_to_start(build(cache, case), case.message)


def limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator, as those for rate limits are."""

    @functools.wraps(function)
    async def limit(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return limit


def swapped(app: FastAPI, cached: Cached) -> None:
    cached(app.get("/r")(fresh()))


def decorated(app: FastAPI, cached: Cached) -> None:
    app.get("/r")(limited(cached(fresh())))


def as_plain_route(app: FastAPI, cached: Cached) -> None:
    app.add_route("/r", cached(fresh()))


def mounted(app: FastAPI, cached: Cached) -> None:
    app.mount("/r", cached(fresh()))


def as_dependency(app: FastAPI, cached: Cached) -> None:
    function = cached(fresh())

    @app.get("/r")
    async def read(answer: Annotated[Any, Depends(function)]) -> str:
        return ""


def as_websocket(app: FastAPI, cached: Cached) -> None:
    app.add_api_websocket_route("/r", cached(fresh()))


def fresh() -> Callable[[], Any]:
    async def of_this_test() -> str:
        return ""

    return of_this_test


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (swapped, r"of_this_test is cached, .*below @router\.get"),
        (decorated, r"a decorator is around of_this_test.*dependencies=\[Depends"),
        (as_plain_route, r"serves of_this_test.* past FastAPI: add it with @router\.get"),
        (mounted, r"serves of_this_test.* past FastAPI"),
        (as_dependency, r"depends on of_this_test.*@policy\.cached"),
        (as_websocket, r"serves of_this_test"),
    ],
)
async def test_a_cached_function_in_the_wrong_place_is_refused_at_start_up(
    cache: Cache, add: Callable[[FastAPI, Cached], None], message: str
) -> None:
    app = application()
    add(app, cache.policy("p", ttl=60).http(public=True))
    await refuses_to_start(app, message)


async def test_a_cached_function_that_no_route_serves_is_told_at_start_up(
    cache: Cache, capture: list[Any]
) -> None:
    served, forgotten = (cache.policy(name, ttl=60).http(public=True)(fresh()) for name in "ab")
    forgotten.arguments.name = "forgotten"
    app = application()
    app.get("/r")(served)
    async with asking(app) as client:
        await client.get("/r")
    assert [(e["event"], e["function"]) for e in capture] == [("cache.unserved_route", "forgotten")]


class OfTheService:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, *arguments: Any) -> None:
        await self.app(*arguments)


@pytest.mark.parametrize(
    ("middleware", "options"),
    [
        (CORSMiddleware, {"allow_origins": ["*"]}),
        (TrustedHostMiddleware, {"allowed_hosts": ["*"]}),
        (HTTPSRedirectMiddleware, {}),
        (GZipMiddleware, {}),
        (BaseHTTPMiddleware, {}),
    ],
)
async def test_middleware_that_hits_would_not_pass_is_told_at_start_up(
    cache: Cache, capture: list[Any], middleware: Any, options: dict[str, Any]
) -> None:
    for inside in (True, False):
        app = FastAPI()
        app.add_middleware(OfTheService)  # may be right there, and is not told
        if inside:
            app.add_middleware(middleware, **options)
        app.add_middleware(HttpCacheMiddleware)
        if not inside:
            app.add_middleware(middleware, **options)
        async with serving(app, lifespan="on"):
            pass
        told = [e["middleware"] for e in capture if e["event"] == "cache.middleware_inside"]
        assert told == ([[middleware.__name__]] if inside else [])
        capture.clear()


async def test_refused_without_a_lifespan_too(cache: Cache) -> None:
    async with asking(build(cache, CASES["header"])) as client:
        assert [(await client.get("/r")).status_code for _ in range(2)] == [500, 500]


async def test_a_real_server_does_not_start(cache: Cache) -> None:
    opened = False

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal opened
        opened = True
        yield

    app = build(cache, dataclasses.replace(CASES["header"], app={"lifespan": lifespan}))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    with pytest.raises(SystemExit):
        async with asyncio.timeout(HANG):
            await server.serve()
    assert not server.started
    assert not opened


async def test_a_real_server_starts_and_opens_the_lifespan(cache: Cache) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        order.append("opened")
        yield {"what": "state"}
        order.append("closed")

    app = build(cache, Case("", app={"lifespan": lifespan}))
    async with serving(app):
        assert order == ["opened"]
    assert order == ["opened", "closed"]


async def test_a_mounted_application_is_checked_too(cache: Cache) -> None:
    inner, app = build(cache, CASES["header"]), application()
    app.mount("/inner", inner)
    async with asking(app) as client:
        assert (await client.get("/anything")).status_code == 500


@pytest.mark.parametrize("late", [False, True])
async def test_nothing_unchecked_is_served(cache: Cache, late: bool) -> None:
    """Without the middleware, or added after the start."""
    app, router = FastAPI(), APIRouter()
    if late:
        app = application()
        async with asking(app) as client:
            await client.get("/")

    @router.get("/r")
    @cache.policy("p", ttl=60).http(public=True)
    async def read() -> str:
        raise AssertionError("not reached")

    app.include_router(router)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://s"
    ) as client:
        with pytest.raises(RuntimeError, match=r"needs app\.add_middleware"):
            await client.get("/r")


async def test_a_route_that_is_fine_in_all_these_ways(cache: Cache) -> None:
    """The control: the checks let through what is safe."""
    router = APIRouter(dependencies=[Depends(who)])

    def clock() -> str:
        return "now"

    @router.get("/{tenant}/r", response_model=Item, status_code=200)
    @cache.policy("p", ttl=60).http(public=True, ignore=["repository", "clock"])
    async def read(
        tenant: str,
        repository: Annotated[str, Depends(of_tenant)],
        clock: Annotated[str, Depends(clock)],
        page: int = 1,
    ) -> Item:
        if page > 9:
            raise HTTPException(404)
        return Item(id=page, name=f"{repository} {clock}")

    async with asking(application(router)) as client:
        answers = [await client.get("/a/r"), await client.get("/a/r"), await client.get("/b/r")]
    assert [answer.json()["name"] for answer in answers] == ["a now", "a now", "b now"]
    assert [status(answer) for answer in answers] == ["fwd=miss", "hit", "fwd=miss"]


async def test_a_principal_that_cannot_be_a_key_is_an_error_not_a_leak(cache: Cache) -> None:
    router = APIRouter()

    @router.get("/r")
    @cache.policy("p", ttl=60).http(vary_by=object)
    async def read() -> str:
        return "somebody's"

    async with asking(application(router)) as client:
        assert (await client.get("/r")).status_code == 500
