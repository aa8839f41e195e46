"""Whatever goes wrong, and whoever answers it: the client gets problem details."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import Cache
from app.core.observability.requests import RequestMiddleware
from app.core.problems import answer_invalid_request, problem
from app.core.redis import ClientOptions
from app.core.serializers.json import JsonSerializer
from app.core.service import Layer, Service
from devservers.valkey import EmbeddedValkey
from tests.support.problems import SAID, problem_of

TYPE = "/problems/out-of-stock"
ERRORS: dict[str, tuple[int, Exception]] = {
    "text": (404, HTTPException(404, "no such thing")),
    "nothing": (403, HTTPException(403)),
    "no challenge": (401, HTTPException(401, "log in first")),
    "a challenge": (401, HTTPException(401, headers={"WWW-Authenticate": "Bearer"})),
    "a number": (409, HTTPException(409, 3)),
    "a list": (422, HTTPException(422, [{"detail": "no"}])),
    "an object": (409, HTTPException(409, {"type": TYPE, "left": 3, "status": 200})),
    "a problem": (409, problem(409, "all are sold", type=TYPE, title="Out of stock", left=3)),
    "too many": (429, HTTPException(429, headers={"retry-after": "7"})),
    "precondition": (428, HTTPException(428, "send If-Match")),
    "unknown status": (499, HTTPException(499)),
    "away": (503, RedisConnectionError("redis://:hunter2@redis")),
    "slow": (503, TimeoutError("hunter2")),
    "mistake": (500, ValueError("hunter2")),
}
ASKED: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "no route": (404, "GET", "/nowhere", {}),
    "no method": (405, "PUT", "/fail/text", {}),
    "no file": (404, "GET", "/files/none", {}),
    "a query": (422, "GET", "/cached?number=hunter2", {}),
    "a body": (422, "POST", "/body", {"json": {"size": "hunter2"}}),
    "no JSON": (422, "POST", "/body", {"content": b'{"size": hunter2'}),
    "no form": (
        400,
        "POST",
        "/upload",
        {"content": b"hunter2", "headers": {"content-type": "multipart/form-data"}},
    ),
    "too long": (413, "POST", "/body", {"content": b"x" * 3_000}),
    "cached": (404, "GET", "/cached?number=0", {}),
    "cached, again": (404, "GET", "/cached?number=0", {}),
    "another version": (412, "GET", "/cached?number=1", {"headers": {"if-match": '"other"'}}),
    "a wrong result": (500, "GET", "/wrong", {}),
    "a middleware": (500, "GET", "/outside", {}),
}


class Size(BaseModel):
    size: int


class Failing:
    """A middleware around the cache."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/outside":
            raise ValueError("hunter2")
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[httpx2.AsyncClient]:
    options = ClientOptions(name="orders", timeout=10, pool_timeout=10, connect_timeout=10)
    service = Service("orders", redis_url=valkey.url, redis_options=options)
    cache = Cache(
        service.redis("cache"), service="orders", serializer=JsonSerializer(), read_timeout=10
    )
    service.open(cache)
    service.middleware(RequestMiddleware, layer=Layer.REQUESTS)
    service.middleware(Failing)
    router = APIRouter()

    @router.get("/fail/{kind}")
    async def fail(kind: str) -> None:
        raise ERRORS[kind][1]

    @router.get("/cached")
    @cache.policy("number", int, ttl=60).http(public=True)
    async def cached(number: Annotated[int, Query()]) -> int:
        if number == 0:
            raise HTTPException(404, "no such number")
        return number

    @router.post("/body")
    async def body(size: Size) -> None: ...

    @router.post("/upload")
    async def upload(file: Annotated[UploadFile, File()]) -> None: ...

    @router.get("/wrong", response_model=Size)
    async def wrong() -> Any:
        return {"size": "hunter2"}

    service.include(router)
    app = service.app(max_body_bytes=2_000)
    app.mount("/files", StaticFiles(directory=Path(__file__).parent))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service") as asking,
    ):
        yield asking


async def test_what_a_route_raises(client: httpx2.AsyncClient) -> None:
    for kind, (status, _) in ERRORS.items():
        answer = await client.get(f"/fail/{kind}")
        assert answer.status_code == status, kind
        problem_of(answer)
        assert "hunter2" not in answer.text


async def test_what_no_route_raises(client: httpx2.AsyncClient) -> None:
    await client.get("/cached?number=1")
    for kind, (status, method, path, sent) in ASKED.items():
        answer = await client.request(method, path, **sent)
        assert answer.status_code == status, kind
        problem_of(answer)
        assert "hunter2" not in answer.text
        assert "Traceback" not in answer.text


async def test_the_members(client: httpx2.AsyncClient) -> None:
    async def told(kind: str) -> dict[str, Any]:
        return problem_of(await client.get(f"/fail/{kind}"))

    blank = {"type": "about:blank"}
    assert await told("text") == blank | {
        "title": "Not Found", "status": 404, "detail": "no such thing"
    }  # fmt: skip
    assert await told("nothing") == blank | {"title": "Forbidden", "status": 403}
    assert await told("a list") == blank | {
        "title": "Unprocessable Content", "status": 422, "errors": [{"detail": "no"}]
    }  # fmt: skip
    assert await told("a problem") == {
        "type": TYPE, "title": "Out of stock", "status": 409, "detail": "all are sold", "left": 3
    }  # fmt: skip
    # The status is that of the answer, whatever the object says.
    assert (await told("an object"))["status"] == 409
    mistake = await client.get("/fail/mistake")
    assert problem_of(mistake).keys() - SAID == {"request_id"}
    assert mistake.json()["request_id"] == mistake.headers["x-request-id"]


async def test_headers_stay(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/fail/too many")).headers["retry-after"] == "7"
    assert (await client.get("/fail/away")).headers["retry-after"] == "1"
    assert (await client.get("/fail/a challenge")).headers["www-authenticate"] == "Bearer"
    assert "basic" not in (await client.get("/fail/no challenge")).headers["www-authenticate"]


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        (["lines", 0, "price"], "#/lines/0/price"),
        (["a/b~c"], "#/a~1b~0c"),
        (["größe x"], "#/gr%C3%B6%C3%9Fe%20x"),
        (['"#%'], "#/%22%23%25"),
        (["\ud800"], "#/%5Cud800"),
        (["x" * 200], f"#/{'x' * 100}..."),
        ([], "#"),
    ],
)
async def test_the_pointer_is_one_of_rfc_6901(path: list[str | int], pointer: str) -> None:
    error = RequestValidationError([{"loc": ("body", *path), "type": "missing", "msg": "no"}])
    answer = await answer_invalid_request(Request({"type": "http"}), error)
    (mistake,) = httpx2.Response(422, content=bytes(answer.body)).json()["errors"]
    assert mistake == {"in": "body", "pointer": pointer, "detail": "no", "type": "missing"}


async def test_the_control_is_fastapi() -> None:
    app = FastAPI()
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://service"
    ) as http:
        answer = await http.get("/nowhere")
    with pytest.raises(AssertionError):
        problem_of(answer)
