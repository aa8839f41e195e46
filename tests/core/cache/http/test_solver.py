"""Dependencies are solved by a plan as FastAPI solves them: with an override, it does so itself."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from enum import StrEnum
from itertools import count
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    Security,
)
from fastapi.dependencies.utils import solve_dependencies
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute, get_request_handler
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field
from starlette.types import Receive, Scope, Send

from app.core.cache import Cache
from app.core.cache.http import solver
from devservers.valkey import EmbeddedValkey
from tests.core.cache.harness import open_cache
from tests.core.cache.http.serving import application, asking, status

REQUIRED = inspect.Parameter.empty
NUMBER = "6b0a9a36-0f4e-4a35-8b55-2f0a5f2a5a33"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Filters(BaseModel):
    size: int = 1


def shout(text: str) -> str:
    return text.upper()


# What a function may take, by the name of the parameter: annotation and default.
OF_REQUEST: dict[str, tuple[Any, Any]] = {
    "item_id": (int, REQUIRED),
    "page": (int, 1),
    "limit": (Annotated[int, Query(ge=1, le=100)], 10),
    "size": (Annotated[int | None, Query(alias="the-size")], None),
    "needed": (str, REQUIRED),
    "flag": (bool, False),
    "colour": (Colour | None, None),
    "kind": (Literal["a", "b"], "a"),
    "x_user": (Annotated[str | None, Header()], None),
    "x_count": (Annotated[int, Header()], 0),
    "under_score": (Annotated[str | None, Header(convert_underscores=False)], None),
    "x_id": (Annotated[UUID | None, Header()], None),
    "token": (Annotated[str | None, Cookie()], None),
}
NOT_PLAIN: dict[str, tuple[Any, Any]] = {
    "word": (Annotated[str, AfterValidator(shout)], "none"),
    "tags": (Annotated[list[str] | None, Query()], None),
    "filters": (Annotated[Filters, Query()], REQUIRED),
}
OF_CALL: dict[str, tuple[Any, Any]] = {
    "request": (Request, REQUIRED),
    "connection": (HTTPConnection, REQUIRED),
    "response": (Response, REQUIRED),
}
TAKES = {**OF_REQUEST, **NOT_PLAIN, **OF_CALL}


class Part(BaseModel):
    """A dependency of a generated application."""

    takes: list[str] = []
    needs: list[tuple[int, bool]] = []
    """Which of the parts before it, and whether its result may be shared."""
    is_async: bool = True
    fails: bool = False


def parts(earlier: int) -> st.SearchStrategy[Part]:
    needs = st.tuples(st.integers(0, max(earlier - 1, 0)), st.booleans())
    names = st.sampled_from([*OF_REQUEST, *OF_CALL, *OF_REQUEST, *TAKES])
    return st.builds(
        Part,
        takes=st.lists(names, unique=True, max_size=3),
        needs=st.lists(needs, max_size=3) if earlier else st.just([]),
        is_async=st.booleans(),
        fails=st.sampled_from([False, False, True]),
    )


trees = st.tuples(*(parts(earlier) for earlier in range(4)))
texts = st.sampled_from(["", "0", "7", "07", "true", "red", "a", "c", "x y", "-1", NUMBER])
queries = st.sampled_from(
    ["page", "limit", "size", "the-size", "needed", "word", "flag", "colour", "kind", "tags"]
)
headers = st.sampled_from(["X-User", "x-count", "under_score", "x-id"])
requests = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["7", "7", "x"]),
        "query": st.lists(st.tuples(queries, texts), max_size=4),
        "headers": st.lists(st.tuples(headers, texts), max_size=3),
        "cookies": st.dictionaries(st.just("token"), st.sampled_from(["a", "b"])),
    }
)


class Dependency:
    """Writes down how it was called."""

    def __init__(self, name: str, part: Part, needs: list[Any], log: list[Any]) -> None:
        self.name = name
        self._fails = part.fails
        self._log = log
        self.__signature__ = signature(part.takes, needs)

    def note(self, arguments: dict[str, Any]) -> str:
        self._log.append((self.name, {name: told(value) for name, value in arguments.items()}))
        if (response := arguments.get("response")) is not None:
            response.headers.append("x-made-by", self.name)
        if self._fails and (arguments.get("page") == 0 or arguments.get("x_user") == "a"):
            raise HTTPException(403, f"{self.name} says no", {"x-why": self.name})
        return f"{self.name}{len(self._log)}"


class Async(Dependency):
    async def __call__(self, **arguments: Any) -> str:
        return self.note(arguments)


class Sync(Dependency):
    def __call__(self, **arguments: Any) -> str:
        return self.note(arguments)


def told(value: Any) -> str:
    """What can be compared of an argument."""
    return type(value).__name__ if isinstance(value, HTTPConnection | Response) else repr(value)


def signature(takes: list[str], needs: list[Any]) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            *(
                inspect.Parameter(name, keyword, annotation=TAKES[name][0], default=TAKES[name][1])
                for name in takes
            ),
            *(
                inspect.Parameter(f"need_{i}", keyword, annotation=Annotated[str, need])
                for i, need in enumerate(needs)
            ),
        ],
        return_annotation=str,
    )


def generated(
    cache: Cache, name: str, tree: tuple[Part, ...], own: list[str], log: list[Any]
) -> FastAPI:
    """An application with one route, which takes `own` and depends on all parts."""
    made: list[Any] = []
    for number, part in enumerate(tree):
        needs = [Depends(made[of], use_cache=shared) for of, shared in part.needs]
        made.append((Async if part.is_async else Sync)(f"part{number}", part, needs, log))

    async def function(**arguments: Any) -> str:
        log.append(("function", {name: told(value) for name, value in arguments.items()}))
        return repr(sorted(arguments.items()))

    function.__signature__ = takes = signature(own, [])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in takes.parameters.values()}
    function.__annotations__["return"] = str
    router = APIRouter()
    cached = cache.policy(name, ttl=60).http(vary_by=made[-1])(function)
    router.get("/{item_id}", dependencies=[Depends(made[0]), Depends(made[1])])(cached)
    return application(router)


@pytest.fixture
def by_fastapi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths for which FastAPI has solved the dependencies."""
    return watch_fastapi(monkeypatch)


def watch_fastapi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths = []

    async def watched(**arguments: Any) -> Any:
        paths.append(arguments["request"].url.path)
        return await solve_dependencies(**arguments)

    monkeypatch.setattr("fastapi.routing.solve_dependencies", watched)
    return paths


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


names = count()


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    tree=trees,
    own=st.lists(st.sampled_from([*OF_REQUEST, *OF_REQUEST, *NOT_PLAIN]), unique=True, max_size=3),
    asked=st.lists(requests, min_size=2, max_size=6),
)
def test_a_plan_does_what_fastapi_does(
    server: EmbeddedValkey, tree: tuple[Part, ...], own: list[str], asked: list[dict[str, Any]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(compare(server.url, tree, own, asked, watch_fastapi(monkeypatch)))


async def compare(
    url: str,
    tree: tuple[Part, ...],
    own: list[str],
    asked: list[dict[str, Any]],
    by_fastapi: list[str],
) -> None:
    taken = set(own).union(*(part.takes for part in tree))
    logs: list[list[Any]] = [[], []]
    async with open_cache(url) as cache:
        for planned, log in zip((True, False), logs, strict=True):
            app = generated(cache, f"p{next(names)}", tree, own, log)
            if not planned:
                app.dependency_overrides[shout] = shout
            async with asking(app) as http:
                for request in asked:
                    by_fastapi.clear()
                    log.append("request")
                    http.cookies = request["cookies"]
                    response = await http.get(
                        f"/{request['path']}", params=request["query"], headers=request["headers"]
                    )
                    told = [pair for pair in response.headers.multi_items() if pair[0] != "age"]
                    told = [(name, value.partition("; ttl")[0]) for name, value in told]
                    log.append((response.status_code, told, response.text))
                    if planned and response.status_code == 200 and not NOT_PLAIN.keys() & taken:
                        assert by_fastapi == []
    assert logs[0] == logs[1]


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
    word: Annotated[str, Header(), Field(validate_default=True), AfterValidator(shout)] = "default",
) -> str:
    return x_user + word


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
        (with_checked_default, False, ("annDEFAULT", "nobodyDEFAULT")),
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
    router = APIRouter()

    async def find() -> str:
        raise Missing

    @router.get("/one")
    @cache.policy("one", ttl=60).http(vary_by=find)
    async def read() -> int:
        return 1

    app = application(router)

    @app.exception_handler(Missing)
    async def translate(request: Request, error: Exception) -> None:
        raise HTTPException(404, "translated")

    async with asking(app) as http:
        response = await http.get("/one")
    assert (response.status_code, response.json()) == (404, {"detail": "translated"})


async def test_a_handler_sees_the_request_of_the_dependency(cache: Cache) -> None:
    """With the body that it has read, which cannot be read twice."""
    router = APIRouter()

    async def verify(request: Request) -> str:
        raise Missing(await request.body())

    @router.get("/one")
    @cache.policy("one", ttl=60).http(vary_by=verify)
    async def read() -> int:
        return 1

    app = application(router)

    @app.exception_handler(Missing)
    async def handle(request: Request, error: Exception) -> Response:
        return Response(await request.body(), 401)

    async with asking(app) as http, asyncio.timeout(5):
        response = await http.request("GET", "/one", content=b"signed")
    assert (response.status_code, response.content) == (401, b"signed")


async def test_a_dependency_finds_no_status_yet(cache: Cache, by_fastapi: list[str]) -> None:
    router = APIRouter()
    found: list[Any] = []

    async def look(response: Response) -> str:
        found.append(response.status_code)
        return "somebody"

    @router.get("/one")
    @cache.policy("one", ttl=60).http(vary_by=look)
    async def read() -> int:
        return 1

    async with asking(application(router)) as http:
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


def one(cache: Cache) -> APIRouter:
    router = APIRouter()
    router.get("/one")(cached_one(cache))
    return router


def cached_one(cache: Cache) -> Any:
    async def read() -> int:
        return 1

    return cache.policy("one", ttl=60).http(vary_by=plain)(read)


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


async def test_what_a_newer_fastapi_may_know_is_left_to_it(
    cache: Cache, by_fastapi: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver, "_KNOWN", solver._KNOWN - {"concurrency"})
    async with asking(application(one(cache))) as http:
        await http.get("/one")
    assert by_fastapi == ["/one"]


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
