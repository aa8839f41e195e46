"""Cached routes are served as FastAPI serves them: by a plan or, where that would not do, by it."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Request,
    Response,
    Security,
)
from fastapi.routing import APIRoute, get_request_handler
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import AfterValidator, Field
from starlette.types import Receive, Scope, Send

from app.core.cache import Cache
from devservers.waiting import HANG
from tests.core.cache.http.serving import application, asking, status, watch_fastapi


@pytest.fixture
def by_fastapi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths for which FastAPI has solved the dependencies."""
    return watch_fastapi(monkeypatch)


class Who:
    """A user, from a method."""

    async def method(self, x_user: Annotated[str, Header()] = "nobody") -> str:
        return x_user


async def plain(x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user


def in_thread(x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user


async def bearer(
    credentials: Annotated[
        HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
    ],
) -> str:
    return credentials.credentials if credentials else "nobody"


async def yielding(x_user: Annotated[str, Header()] = "nobody") -> AsyncIterator[str]:
    yield x_user


@functools.wraps(plain)
async def wrapping(**arguments: Any) -> str:
    return await plain(**arguments)


async def scoped(scopes: SecurityScopes, x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user + scopes.scope_str


async def with_scopes(who: Annotated[str, Security(scoped, scopes=["read"])]) -> str:
    return who


async def with_tasks(tasks: BackgroundTasks, x_user: Annotated[str, Header()] = "nobody") -> str:
    tasks.add_task(DONE.append, x_user)
    return x_user


async def with_body(x_user: Annotated[str, Header()] = "nobody", body: str = Body("none")) -> str:
    return x_user + body


async def with_factory(
    x_user: Annotated[str, Header()] = "nobody",
    word: str = Header(default_factory=lambda: "made"),
) -> str:
    return x_user + word


async def with_checked_default(
    x_user: Annotated[str, Header()] = "nobody",
    number: Annotated[int, Header(), Field(validate_default=True)] = "7",  # type: ignore[assignment]
) -> str:
    return x_user + repr(number)


async def with_another_name(
    name: Annotated[str, Header(alias="x-shown", validation_alias="x-user")] = "nobody",
) -> str:
    return name


class Named:
    def __init__(self, x_user: Annotated[str, Header()] = "nobody") -> None:
        self.name = x_user


DONE: list[str] = []


@pytest.mark.parametrize(
    ("dependency", "planned", "answers"),
    [
        (plain, True, ("ann", "nobody")),
        (in_thread, True, ("ann", "nobody")),
        (Who().method, True, ("ann", "nobody")),
        (bearer, True, ("secret", "nobody")),
        (wrapping, False, ("ann", "nobody")),
        (functools.partial(plain), False, ("ann", "nobody")),
        (with_scopes, False, ("annread", "nobodyread")),
        (with_tasks, False, ("ann", "nobody")),
        (with_body, False, ("annnone", "nobodynone")),
        (with_factory, False, ("annmade", "nobodymade")),
        (with_checked_default, False, ("ann7", "nobody7")),
        (with_another_name, False, ("ann", "nobody")),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if callable(value) else "",
)
async def test_what_is_not_plain_is_left_to_fastapi(
    cache: Cache,
    by_fastapi: list[str],
    dependency: Callable[..., Any],
    planned: bool,
    answers: tuple[str, str],
) -> None:
    DONE.clear()
    router = APIRouter()

    @router.get("/who")
    @cache.policy("who", ttl=60).http(vary_by=dependency, ignore=["who"])
    async def read(who: Annotated[str, Depends(dependency)] = "") -> str:
        return who

    ann = {"x-user": "ann", "authorization": "Bearer secret"}
    async with asking(application(router)) as http:
        for _ in range(2):
            assert (await http.get("/who", headers=ann)).json() == answers[0]
            assert (await http.get("/who")).json() == answers[1]
    assert by_fastapi == ([] if planned else ["/who"] * 4)
    done = ["ann", "nobody"] * 2 if dependency is with_tasks else []
    assert done == DONE


class Decorated:
    """A decorator that is an object: it looks like a plain call, and gives something to await."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


@pytest.mark.parametrize("dependency", [yielding, Named, Decorated(plain), Decorated(yielding)])
async def test_what_is_not_a_plain_function_is_left_to_fastapi(
    cache: Cache, by_fastapi: list[str], dependency: Callable[..., Any]
) -> None:
    router = APIRouter()

    @router.get("/one", dependencies=[Depends(dependency)])
    @cache.policy("one", ttl=60).http(vary_by=plain)
    async def read() -> int:
        return 1

    async with asking(application(router)) as http:
        assert (await http.get("/one")).json() == 1
    assert by_fastapi == ["/one"]


def known(project: str) -> str:
    if project != "known":
        raise HTTPException(404, "no such project")
    return project


async def signed_in(x_user: Annotated[str | None, Header()] = None) -> str:
    if x_user is None:
        raise HTTPException(401, "who are you?")
    return x_user


async def test_who_may_not_ask_learns_nothing_from_a_validator(cache: Cache) -> None:
    router = APIRouter()

    @router.get("/projects/{project}")
    @cache.policy("project", ttl=60).http(vary_by=signed_in)
    async def read(project: Annotated[str, AfterValidator(known)]) -> str:
        return project

    async with asking(application(router)) as http:
        for project in ("known", "unknown"):
            assert (await http.get(f"/projects/{project}")).status_code == 401


class Missing(Exception):
    pass


async def test_a_handler_may_raise_another_error(cache: Cache) -> None:
    async def find() -> str:
        raise Missing

    app = application(one(cache, find))

    @app.exception_handler(Missing)
    async def translate(request: Request, error: Exception) -> None:
        raise HTTPException(404, "translated")

    async with asking(app) as http:
        response = await http.get("/one")
    assert (response.status_code, response.json()) == (404, {"detail": "translated"})


async def test_a_handler_sees_the_request_of_the_dependency(cache: Cache) -> None:
    """With the body that it has read, which cannot be read twice."""

    async def verify(request: Request) -> str:
        raise Missing(await request.body())

    app = application(one(cache, verify))

    @app.exception_handler(Missing)
    async def handle(request: Request, error: Exception) -> Response:
        return Response(await request.body(), 401)

    async with asking(app) as http, asyncio.timeout(HANG):
        response = await http.request("GET", "/one", content=b"signed")
    assert (response.status_code, response.content) == (401, b"signed")


async def test_a_dependency_finds_no_status_yet(cache: Cache, by_fastapi: list[str]) -> None:
    found: list[Any] = []

    async def look(response: Response) -> str:
        found.append(response.status_code)
        return "somebody"

    async with asking(application(one(cache, look))) as http:
        await http.get("/one")
    assert (found, by_fastapi) == ([None], [])


def limited(cache: Cache) -> FastAPI:
    router = APIRouter(max_body_size=3)
    router.get("/one")(cached_one(cache))
    return application(router)


def surrounded(cache: Cache) -> FastAPI:
    app = application()
    app.get("/one")(cached_one(cache))
    route = next(route for route in app.routes if isinstance(route, APIRoute))
    inner = route.app

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    route.app = around
    return app


def one(cache: Cache, vary_by: Callable[..., Any] | None = None) -> APIRouter:
    router = APIRouter()
    router.get("/one")(cached_one(cache, vary_by))
    return router


def cached_one(cache: Cache, vary_by: Callable[..., Any] | None = None) -> Any:
    async def read() -> int:
        return 1

    return cache.policy("one", ttl=60).http(vary_by=vary_by or plain)(read)


@pytest.mark.parametrize(("build", "status"), [(limited, 413), (surrounded, 200)])
async def test_what_is_around_a_route_stays_there(
    cache: Cache, by_fastapi: list[str], build: Callable[[Cache], FastAPI], status: int
) -> None:
    async with asking(build(cache)) as http:
        assert (await http.get("/one")).json() == 1
        response = await http.request("GET", "/one", content=b"four")
    assert response.status_code == status
    assert by_fastapi == ["/one"] * 2


async def test_whoever_puts_a_handler_in_fastapis_place_sees_the_request(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Sentry does."""
    seen: list[str] = []

    def replacement(*args: Any, **kwargs: Any) -> Any:
        handle = get_request_handler(*args, **kwargs)

        async def watched(request: Request) -> Response:
            seen.append(request.url.path)
            response: Response = await handle(request)
            return response

        return watched

    monkeypatch.setattr("fastapi.routing.get_request_handler", replacement)
    async with asking(application(one(cache))) as http:
        await http.get("/one")
    assert seen == ["/one"]


async def test_an_override_is_fastapis(cache: Cache, by_fastapi: list[str]) -> None:
    router = APIRouter()

    @router.get("/who")
    @cache.policy("who", ttl=60).http(vary_by=plain, ignore=["who"])
    async def read(who: Annotated[str, Depends(plain)]) -> str:
        return who

    app = application(router)
    async with asking(app) as http:
        assert (await http.get("/who")).json() == "nobody"
        app.dependency_overrides[plain] = lambda: "another"
        assert (await http.get("/who")).json() == "another"
        app.dependency_overrides.clear()
        again = await http.get("/who")
    assert (again.json(), status(again)) == ("nobody", "hit")
    assert by_fastapi == ["/who"]
