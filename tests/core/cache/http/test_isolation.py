"""Nobody gets an answer that was made for somebody else, whatever the route looks like."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx2
import pytest
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
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.background import BackgroundTask

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.cache.http import route as route_module
from tests.core.cache.http.serving import application, asking, status

bearer = HTTPBearer(auto_error=False)
api_key = APIKeyHeader(name="X-Api-Key", auto_error=False)


class Calls:
    """How often a dependency ran."""

    def __init__(self) -> None:
        self.count = 0


calls = Calls()


@pytest.fixture(autouse=True)
def _reset() -> None:
    calls.count = 0


async def by_bearer(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str | None:
    calls.count += 1
    return None if credentials is None else credentials.credentials


async def by_header(x_user: Annotated[str | None, Header()] = None) -> str | None:
    calls.count += 1
    return x_user


def by_cookie(session: Annotated[str | None, Cookie()] = None) -> str | None:
    calls.count += 1
    return session


async def by_key(key: Annotated[str | None, Depends(api_key)]) -> str | None:
    calls.count += 1
    return key


async def by_request(request: Request) -> str | None:
    calls.count += 1
    return request.headers.get("x-user")


async def nested(user: Annotated[str | None, Depends(by_header)]) -> dict[str, Any]:
    return {"user": user, "roles": ["reader"]}


PRINCIPALS: list[Callable[..., Any]] = [by_bearer, by_header, by_cookie, by_key, by_request, nested]


def headers_of(user: str | None) -> dict[str, str]:
    if user is None:
        return {}
    return {
        "authorization": f"Bearer {user}",
        "x-user": user,
        "x-api-key": user,
        "cookie": f"session={user}",
    }


def name_in(principal: Any) -> str:
    return str(principal["user"] if isinstance(principal, dict) else principal)


def async_route(cache: Cache, principal: Callable[..., Any]) -> APIRouter:
    router = APIRouter()

    @router.get("/me/{item_id}")
    @cache.policy("me", ttl=60).http(vary_by=principal)
    async def me(item_id: int, who: Annotated[Any, Depends(principal)]) -> dict[str, str]:
        await asyncio.sleep(0.01)
        return {"for": name_in(who)}

    return router


def sync_route(cache: Cache, principal: Callable[..., Any]) -> APIRouter:
    router = APIRouter(prefix="/me")

    @router.get("/{item_id}")
    @cache.policy("me", ttl=60).http(vary_by=principal)
    def me(item_id: int, who: Annotated[Any, Depends(principal)]) -> dict[str, str]:
        return {"for": name_in(who)}

    return router


def ignoring_route(cache: Cache, principal: Callable[..., Any]) -> APIRouter:
    """What the function gets is no part of the key of its own, only as the principal."""
    router = APIRouter()

    @router.get("/me/{item_id}")
    @cache.policy("me", ttl=60).http(vary_by=principal, ignore=["who"])
    async def me(item_id: int, who: Annotated[Any, Depends(principal)]) -> dict[str, str]:
        return {"for": name_in(who)}

    outer = APIRouter()
    outer.include_router(router)
    return outer


@pytest.mark.parametrize("make", [async_route, sync_route, ignoring_route])
@pytest.mark.parametrize("principal", PRINCIPALS, ids=lambda p: p.__name__)
async def test_each_gets_their_own(
    cache: Cache,
    principal: Callable[..., Any],
    make: Callable[[Cache, Callable[..., Any]], APIRouter],
) -> None:
    async with asking(application(make(cache, principal))) as client:
        for round_ in range(3):
            for user in ("ann", "bob", None):
                response = await client.get("/me/1", headers=headers_of(user))
                assert response.json() == {"for": str(user)}
                assert status(response) == ("hit" if round_ else "fwd=miss")
                assert response.headers["cache-control"].startswith("private")
    assert calls.count == 9  # on every request, hit or not


@pytest.mark.parametrize("principal", PRINCIPALS, ids=lambda p: p.__name__)
async def test_concurrent_strangers_share_no_load(
    cache: Cache, principal: Callable[..., Any]
) -> None:
    users = ["ann", "bob", None] * 8
    async with asking(application(async_route(cache, principal))) as client:
        answers = await asyncio.gather(
            *(client.get("/me/1", headers=headers_of(user)) for user in users)
        )
    assert [answer.json()["for"] for answer in answers] == [str(user) for user in users]


async def test_the_control_leaks(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the principal in the key the tests above would see other people's answers."""
    monkeypatch.setattr(route_module, "canonical", lambda principal: "the same for everybody")
    async with asking(application(ignoring_route(cache, by_header))) as client:
        await client.get("/me/1", headers=headers_of("ann"))
        assert (await client.get("/me/1")).json() == {"for": "ann"}


async def test_an_etag_opens_no_door(cache: Cache) -> None:
    """A 304 would tell a stranger that they have guessed the answer of somebody else."""

    async def checked(user: Annotated[str | None, Depends(by_header)]) -> str:
        if user is None:
            raise HTTPException(401)
        return user

    async with asking(application(async_route(cache, checked))) as client:
        etag = (await client.get("/me/1", headers=headers_of("ann"))).headers["etag"]
        same = {"if-none-match": etag}
        assert (await client.get("/me/1", headers=same)).status_code == 401
        other = await client.get("/me/1", headers={**headers_of("bob"), **same})
        assert (other.status_code, other.json()) == (200, {"for": "bob"})
        assert (await client.get("/me/1", headers={**headers_of("ann"), **same})).status_code == 304


async def test_vary_names_what_the_principal_is_read_from(cache: Cache) -> None:
    for principal, expected in (
        (by_bearer, {"authorization", "cookie"}),
        (by_header, {"authorization", "cookie", "x-user"}),
        (by_key, {"authorization", "cookie", "x-api-key"}),
        (nested, {"authorization", "cookie", "x-user"}),
    ):
        router = APIRouter()

        @router.get("/me")
        @cache.policy(principal.__name__, ttl=60).http(vary_by=principal, max_age=30)
        async def me() -> str:
            return "me"

        async with asking(application(router)) as client:
            response = await client.get("/me", headers=headers_of("ann"))
        assert set(response.headers["vary"].lower().split(", ")) == expected


async def token_needed(x_token: Annotated[str | None, Header()] = None) -> None:
    calls.count += 1
    if x_token != "right":
        raise HTTPException(401, "who are you?")


async def query_token_needed(token: str = "") -> None:
    calls.count += 1
    if token != "right":
        raise HTTPException(401, "who are you?")


async def request_token_needed(request: Request) -> None:
    await query_token_needed(request.query_params.get("token", ""))


async def around(_: Annotated[None, Depends(request_token_needed)]) -> None:
    pass


def guarded_by_router(cache: Cache, guard: Callable[..., Any], **how: Any) -> FastAPI:
    router = APIRouter(dependencies=[Depends(guard)])

    @router.get("/secret")
    @cache.policy("secret", ttl=60).http(**how)
    async def secret() -> str:
        return "secret"

    return application(router)


def guarded_by_route(cache: Cache, guard: Callable[..., Any], **how: Any) -> FastAPI:
    router = APIRouter()

    @router.get("/secret", dependencies=[Depends(guard)])
    @cache.policy("secret", ttl=60).http(**how)
    async def secret() -> str:
        return "secret"

    return application(router)


def guarded_by_app(cache: Cache, guard: Callable[..., Any], **how: Any) -> FastAPI:
    router = APIRouter()

    @router.get("/secret")
    @cache.policy("secret", ttl=60).http(**how)
    async def secret() -> str:
        return "secret"

    return application(router, dependencies=[Depends(guard)])


def guarded_by_inclusion(cache: Cache, guard: Callable[..., Any], **how: Any) -> FastAPI:
    router, app = APIRouter(), FastAPI()

    @router.get("/secret")
    @cache.policy("secret", ttl=60).http(**how)
    async def secret() -> str:
        return "secret"

    app.include_router(router, prefix="/open")
    app.include_router(router, dependencies=[Depends(guard)])
    app.add_middleware(HttpCacheMiddleware)
    return app


UNDECLARED = [query_token_needed, request_token_needed, around]
GUARDED = [guarded_by_router, guarded_by_route, guarded_by_app, guarded_by_inclusion]


@pytest.mark.parametrize("build", GUARDED)
@pytest.mark.parametrize(
    ("guard", "public"),
    [
        (token_needed, False),  # public: refused at start-up
        *((guard, public) for guard in UNDECLARED for public in (True, False)),
    ],
)
async def test_a_guard_without_a_result_runs_on_every_request(
    cache: Cache,
    build: Callable[..., FastAPI],
    guard: Callable[..., Awaitable[None]],
    public: bool,
) -> None:
    app = build(cache, guard, **({"public": True} if public else {"vary_by": by_header}))
    async with asking(app) as client:
        right = {"params": {"token": "right"}, "headers": {"x-token": "right"}}
        for _ in range(2):
            assert (await client.get("/secret", **right)).json() == "secret"  # type: ignore[arg-type]  # httpx2's many keywords
            assert (await client.get("/secret")).status_code == 401
            assert (await client.head("/secret")).status_code == 401


PersonalResponse = Callable[[str], Response]


def cookie(user: str) -> Response:
    response = JSONResponse({"for": user})
    response.set_cookie("session", user)
    return response


def capital_cookie(user: str) -> Response:
    response = JSONResponse({"for": user})
    response.raw_headers.append((b"Set-Cookie", b"session=" + user.encode()))
    return response


def streamed(user: str) -> Response:
    return StreamingResponse(iter([f'{{"for": "{user}"}}']), media_type="application/json")


def with_background(user: str) -> Response:
    return JSONResponse({"for": user}, background=BackgroundTask(lambda: None))


def with_header(**headers: str) -> PersonalResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda user: JSONResponse({"for": user}, headers=named)


def with_status(code: int) -> PersonalResponse:
    return lambda user: JSONResponse({"for": user}, code)


def raised(code: int, **headers: str) -> PersonalResponse:
    def fail(user: str) -> Response:
        raise HTTPException(code, {"for": user}, headers=headers or None)

    return fail


PERSONAL = {
    "cookie": cookie,
    "capital_cookie": capital_cookie,
    "stream": streamed,
    "background": with_background,
    "no-store": with_header(cache_control="No-Store"),
    "private": with_header(cache_control="max-age=5, Private"),
    "no-cache": with_header(cache_control="no-cache"),
    "vary": with_header(vary="accept-language"),
    "202": with_status(202),
    "302": with_status(302),
    "403": with_status(403),
    "503": with_status(503),
    "raised 403": raised(403),
    "raised 404 with a cookie": raised(404, **{"Set-Cookie": "a=b"}),
    "raised 503 with a cookie": raised(503, **{"Set-Cookie": "a=b"}),
}


@pytest.mark.parametrize("make", PERSONAL.values(), ids=PERSONAL.keys())
async def test_an_answer_not_to_keep_reaches_only_the_one_it_is_for(
    cache: Cache, make: PersonalResponse
) -> None:
    """Twenty requests at once join one load; the answer belongs to the request that made it."""
    router, made = APIRouter(), 0

    @router.get("/it")
    @cache.policy("it", ttl=60).http(public=True)
    async def it() -> Response:
        nonlocal made
        made += 1
        mine = made
        await asyncio.sleep(0.01)
        return make(f"request {mine}")

    async with asking(application(router)) as client:
        answers = await asyncio.gather(*(client.get("/it") for _ in range(20)))
        later = await client.get("/it")
    texts = [str(answer.json()) for answer in [*answers, later]]
    assert len(set(texts)) == len(texts) == made


async def test_what_dependencies_add_goes_to_everyone_and_is_not_kept(cache: Cache) -> None:
    """A dependency that renews a session runs on hits, so what it says has to arrive."""
    router = APIRouter()

    async def renew(response: Response, user: Annotated[str, Depends(by_header)]) -> None:
        response.set_cookie("renewed", f"for-{user}")

    @router.get("/page", dependencies=[Depends(renew)])
    @cache.policy("page", ttl=60).http(vary_by=lambda: "everybody")
    async def page() -> str:
        return "page"

    async with asking(application(router)) as client:
        for user in ("ann", "bob", "ann"):
            response = await client.get("/page", headers={"x-user": user})
            assert response.headers.get_list("set-cookie")[0].startswith(f"renewed=for-{user};")
            assert len(response.headers.get_list("set-cookie")) == 1
    assert calls.count == 3


async def test_background_tasks_of_dependencies_run_on_hits(cache: Cache) -> None:
    router = APIRouter()
    ran: list[str] = []

    async def count(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "counted")

    @router.get("/page", dependencies=[Depends(count)])
    @cache.policy("page", ttl=60).http(public=True)
    async def page() -> str:
        return "page"

    async with asking(application(router)) as client:
        for _ in range(3):
            await client.get("/page")
    assert len(ran) == 3


async def test_the_same_function_name_under_two_policies(cache: Cache) -> None:
    routers: list[APIRouter] = []
    for name in ("first", "second"):
        router = APIRouter(prefix=f"/{name}")

        @router.get("/{item_id}")
        @cache.policy(name, ttl=60).http(public=True)
        async def read(item_id: int, name: str = name) -> str:
            return f"{name} {item_id}"

        routers.append(router)
    async with asking(application(*routers)) as client:
        for _ in range(2):
            assert (await client.get("/first/1")).json() == "first 1"
            assert (await client.get("/second/1")).json() == "second 1"


async def test_a_mounted_application(cache: Cache) -> None:
    inner = FastAPI()
    inner.include_router(async_route(cache, by_header))
    app = application()
    app.mount("/inner", inner)
    async with asking(app) as client:
        answers: list[httpx2.Response] = [
            await client.get("/inner/me/1", headers=headers_of(user))
            for user in ("ann", "bob", None, "ann", "bob", None)
        ]
    assert [a.json()["for"] for a in answers] == ["ann", "bob", "None"] * 2
    assert [status(a) for a in answers] == ["fwd=miss"] * 3 + ["hit"] * 3
