"""Hits leave in one piece, as the same bytes, and never past a middleware that would see them."""

import re
from typing import Annotated

import pytest
from fastapi import APIRouter, Header, Response
from fastapi.middleware.cors import CORSMiddleware

from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.fastpath.uvicorn import RawResponseSender
from app.core.observability.requests import RequestMiddleware
from app.core.responses import PreparedResponse
from tests.core.cache.http.serving import Item, exchange, serving


async def user(x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user


async def naming_user(response: Response, x_user: Annotated[str, Header()] = "nobody") -> str:
    response.headers["x-you-are"] = x_user
    return x_user


def application(cache: Cache, *, between: bool = False, inside: bool = False) -> Application:
    app = Application()
    router = APIRouter()
    policy = cache.policy("item", ttl=60)

    @router.get("/items/{item_id}")
    @policy.http(public=True)
    async def read(item_id: int) -> Item:
        return Item(id=item_id)

    @router.get("/mine/{item_id}")
    @policy.http(vary_by=user)
    async def read_mine(item_id: int) -> Item:
        return Item(id=item_id)

    @router.get("/named/{item_id}")
    @policy.http(vary_by=naming_user)
    async def read_named(item_id: int) -> Item:
        return Item(id=item_id)

    app.include_router(router)
    if inside:
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(HttpCacheMiddleware)
    if between:
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(RequestMiddleware)
    return app


def asked(method: str = "GET", of: str = "items", **headers: str) -> str:
    lines = [f"{method} /{of}/7 HTTP/1.1", "X-Request-ID: id", "Origin: http://page"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each hit left in one piece."""
    answers: list[bool] = []
    original = RawResponseSender.send_raw

    def watched(self: RawResponseSender, ready: PreparedResponse) -> bool:
        answers.append(original(self, ready))
        return answers[-1]

    monkeypatch.setattr(RawResponseSender, "send_raw", watched)
    return answers


@pytest.mark.parametrize("of", ["items", "mine"])
async def test_the_bytes_are_those_of_asgi(cache: Cache, whole: list[bool], of: str) -> None:
    requests = [asked(of=of), asked(of=of), asked("HEAD", of), asked(of=of)]
    app = application(cache)
    async with serving(app, http="httptools", access_log=False) as port:
        await exchange(port, asked(of=of), asked(of=of))
        whole.clear()
        one_piece = await exchange(port, *requests)
    assert whole == [True, True, False]  # not the last one, which closes the connection
    async with serving(app, http="h11", access_log=False) as port:
        by_h11 = await exchange(port, *requests)
    assert whole == [True, True, False] + [False] * 3
    assert comparable(one_piece) == comparable(by_h11)
    assert one_piece.count(b"x-request-id: id\r\n") == 4
    assert one_piece.count(b"; hit; ttl=") == 4


def comparable(answer: bytes) -> bytes:
    answer = re.sub(rb"(?m)^(date|age|connection): .*\r\n", b"", answer, flags=re.IGNORECASE)
    return re.sub(rb"ttl=\d+", b"ttl", re.sub(rb"HTTP/1.1 200 [^\r]*", b"200", answer))


@pytest.mark.parametrize("of", ["items", "mine"])
async def test_a_middleware_between_sees_the_hit(cache: Cache, whole: list[bool], of: str) -> None:
    app = application(cache, between=True)
    async with serving(app, http="httptools", access_log=False) as port:
        answers = await exchange(port, *[asked(of=of)] * 3)
    assert answers.count(b"access-control-allow-origin: *\r\n") == 3
    assert whole == []


async def test_a_middleware_inside_sees_what_comes_from_the_route(
    cache: Cache, whole: list[bool]
) -> None:
    app = application(cache, inside=True)
    async with serving(app, http="httptools", access_log=False) as port:
        answers = await exchange(port, *[asked(of="mine")] * 3)
        assert whole == []
        await exchange(port, *[asked()] * 3)
    assert answers.count(b"access-control-allow-origin: *\r\n") == 3
    assert whole == [True, False]  # after the miss; the last one closes the connection


async def test_what_a_dependency_adds_is_sent(cache: Cache, whole: list[bool]) -> None:
    async with serving(application(cache), http="httptools", access_log=False) as port:
        answers = await exchange(port, *[asked(of="named", X_User="ann")] * 3)
    assert answers.count(b"x-you-are: ann\r\n") == 3
    assert whole == []


async def test_what_the_client_has_is_not_sent(cache: Cache, whole: list[bool]) -> None:
    async with serving(application(cache), http="httptools", access_log=False) as port:
        first = await exchange(port, asked())
        found = re.search(rb"etag: (\S+)\r\n", first)
        assert found
        answer = await exchange(port, asked(If_None_Match=found[1].decode()), asked())
    assert answer.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert whole == [False] * 3  # the others closed their connections
