"""What a stranger may send: how much, for how long, and what comes back of it."""

import asyncio
import json
from time import monotonic
from typing import Annotated, Any, Literal

import httpx2
import pytest
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.core.application import Application
from app.core.cache import HttpCacheMiddleware
from tests.core.cache.http.serving import asking, serving
from tests.support.problems import problem_of

LIMIT = 1_000


class Login(BaseModel):
    name: str
    password: SecretStr


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


def service(**options: Any) -> FastAPI:
    app = Application(**{"max_body_bytes": LIMIT, **options})
    app.add_middleware(HttpCacheMiddleware)

    @app.post("/json")
    async def as_json(what: dict[str, Any]) -> int:
        return len(what)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.post("/unread")
    async def unread() -> None: ...

    @app.post("/large", max_body_size=10 * LIMIT)
    async def large(request: Request) -> int:
        return len(await request.body())

    @app.get("/get")
    async def get(request: Request) -> int:
        return len(await request.body())

    inner = FastAPI()

    @inner.post("/raw")
    async def inner_raw(request: Request) -> int:
        return len(await request.body())

    app.mount("/inner", inner)
    return app


async def chunks(size: int) -> Any:
    for _ in range(0, size, 100):
        yield b'{"a":1}'.ljust(100)


KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "JSON": ("/json", {"content-type": "application/json"}),
    "raw": ("/raw", {}),
    "mounted": ("/inner/raw", {}),
    "of a GET": ("/get", {}),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_that_is_too_long_is_refused(kind: str, http: str, chunked: bool) -> None:
    path, headers = KINDS[kind]
    async with (
        serving(service(), http=http) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        method = "GET" if kind == "of a GET" else "POST"
        body: Any = chunks(2 * LIMIT) if chunked else b"x" * 2 * LIMIT
        answer = await client.request(method, path, content=body, headers=headers)
        assert answer.status_code == 413
        if kind != "mounted":  # an application of its own
            problem_of(answer)
        # The connection is as it was.
        assert (await client.post("/raw", content=b"x" * LIMIT)).json() == LIMIT


async def test_nobody_waits_for_the_rest_of_it() -> None:
    """The answer comes although not a byte of the body does."""
    async with serving(service()) as port:
        for path in ("/json", "/raw", "/unread"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST {path} HTTP/1.1\r\nHost: s\r\nContent-Length: 5000000\r\n\r\n"
            writer.write(head.encode())
            assert (await asyncio.wait_for(reader.readline(), 60)).split()[1] == b"413"
            writer.close()


async def test_a_route_may_take_more() -> None:
    async with asking(service()) as client:
        assert (await client.post("/large", content=b"x" * 9 * LIMIT)).json() == 9 * LIMIT
        assert (await client.post("/large", content=b"x" * 11 * LIMIT)).status_code == 413


async def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async with serving(service(body_timeout=0.2)) as port:
        for path in ("/json", "/raw"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST {path} HTTP/1.1\r\nHost: s\r\nContent-Length: 500\r\n\r\n{{"
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.read(), 60)  # it is closed then
            assert answer.startswith(b"HTTP/1.1 408")
            writer.close()


async def test_waiting_for_a_body_is_what_counts() -> None:
    """Not what a route does before, after and in between; and who takes more has more time."""
    app = Application(max_body_bytes=LIMIT, body_timeout=0.3)

    @app.post("/slow", max_body_size=100 * LIMIT)
    async def slow(request: Request) -> int:
        size = 0
        async for chunk in request.stream():
            await asyncio.sleep(0.2)
            size += len(chunk)
        return size

    async def slowly() -> Any:
        for _ in range(4):
            await asyncio.sleep(0.1)
            yield b"x"

    async with (
        serving(app) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        assert (await client.post("/slow", content=slowly())).json() == 4


async def test_many_keys_hold_nobody_up() -> None:
    """A megabyte of them: the loop answers others meanwhile, and the answer is a short one."""
    app = Application()

    @app.post("/login")
    async def log_in(login: Login) -> None: ...

    body = json.dumps({f"key {number}": number for number in range(52_000)}).encode()
    assert 900_000 < len(body) < 1024 * 1024
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = monotonic()
            await asyncio.sleep(0)
            longest = max(longest, monotonic() - began)

    # What reading them takes at least, measured on the same machine at the same time.
    began = monotonic()
    for _ in range(3):
        json.loads(body)
    control = monotonic() - began
    async with asking(app) as client:
        watching = asyncio.create_task(watch())
        headers = {"content-type": "application/json"}
        answer = await client.post("/login", content=body, headers=headers)
        watching.cancel()
    assert answer.status_code == 422
    assert len(answer.content) < 1_000
    assert longest < max(10 * control, 1)


def invalid(app: FastAPI) -> None:
    @app.post("/login")
    async def log_in(login: Login, x_count: Annotated[int | None, Header()] = None) -> None: ...

    @app.post("/strict")
    async def strict(what: Strict) -> None: ...

    @app.post("/pets")
    async def pets(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...

    @app.post("/numbers")
    async def numbers(numbers: list[int]) -> None: ...

    @app.get("/numbers/{number}")
    async def number(number: int, more: Annotated[str, Field(pattern="^a$")] = "a") -> None: ...


@pytest.mark.parametrize(
    ("path", "body", "place", "kind"),
    [
        ("/login", {"name": "ann", "password": ["s3cret"]}, "body#/password", "string_type"),
        ("/login", {"password": "s3cret"}, "body#/name", "missing"),
        ("/login", "s3cret", "body#", "model_attributes_type"),
        ("/login", b'{"password": "s3cret', "body#", "json_invalid"),
        ("/pets", {"kind": "s3cret"}, "body#", "union_tag_invalid"),
        ("/numbers", ["s3cret"], "body#/0", "int_parsing"),
        ("/numbers/s3cret", None, "path#/number", "int_parsing"),
        ("/numbers/1?more=s3cret", None, "query#/more", "string_pattern_mismatch"),
    ],
)
async def test_the_answer_has_nothing_of_the_request(
    path: str, body: Any, place: str, kind: str
) -> None:
    app = Application()
    invalid(app)
    async with asking(app) as client:
        if body is None:
            answer = await client.get(path)
        elif isinstance(body, bytes):
            headers = {"content-type": "application/json"}
            answer = await client.post(path, content=body, headers=headers)
        else:
            answer = await client.post(path, json=body)
    assert answer.status_code == 422
    assert "s3cret" not in answer.text
    [mistake] = problem_of(answer)["errors"]
    assert (mistake["in"] + mistake["pointer"], mistake["type"]) == (place, kind)
    assert mistake.keys() == {"in", "pointer", "type", "detail"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/numbers", json.dumps(["x"] * 100_000)),
        ("/strict", json.dumps({f"key {number}": 1 for number in range(10_000)})),
        ("/strict", json.dumps({"x" * 500_000: 1})),
        ("/strict", '{"\\ud800": 1}'),
        ("/numbers", "[" * 500_000),
        ("/numbers", f"[{'9' * 500_000}]"),
    ],
    ids=["many", "many keys", "a long key", "half a character", "deep", "a long number"],
)
async def test_the_answer_is_short(path: str, body: str) -> None:
    app = Application()
    invalid(app)
    async with asking(app) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(path, content=body.encode(), headers=headers)
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 10_000


async def test_a_service_may_answer_otherwise() -> None:
    async def mine(request: Request, error: Exception) -> Any:
        raise AssertionError("not reached")

    app = Application(exception_handlers={RequestValidationError: mine})
    assert app.exception_handlers[RequestValidationError] is mine


async def test_the_control_says_it_back() -> None:
    app = FastAPI()
    invalid(app)
    async with asking(app) as client:
        answer = await client.post("/login", json={"name": "ann", "password": ["s3cret"]})
    assert "s3cret" in answer.text
