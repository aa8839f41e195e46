"""Hits leave in one piece, as the same bytes, and never past a middleware that would see them."""

import re

import pytest
from fastapi import APIRouter
from fastapi.middleware.cors import CORSMiddleware

from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.observability.requests import RequestMiddleware
from app.core.reply import Ready, Reply
from tests.core.cache.http.serving import Item, exchange, serving


def application(cache: Cache, *, between: bool = False) -> Application:
    app = Application()
    router = APIRouter()

    @router.get("/items/{item_id}")
    @cache.policy("item", ttl=60).http(public=True)
    async def read(item_id: int) -> Item:
        return Item(id=item_id)

    app.include_router(router)
    app.add_middleware(HttpCacheMiddleware)
    if between:
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(RequestMiddleware)
    return app


def asked(method: str = "GET", **headers: str) -> str:
    lines = [f"{method} /items/7 HTTP/1.1", "X-Request-ID: id", "Origin: http://page"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each hit left in one piece."""
    answers: list[bool] = []
    original = Reply.whole

    def watched(self: Reply, ready: Ready) -> bool:
        answers.append(original(self, ready))
        return answers[-1]

    monkeypatch.setattr(Reply, "whole", watched)
    return answers


async def test_the_bytes_are_those_of_asgi(cache: Cache, whole: list[bool]) -> None:
    requests = [asked(), asked(), asked("HEAD"), asked()]
    app = application(cache)
    async with serving(app, http="httptools", access_log=False) as port:
        await exchange(port, asked())
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


async def test_a_middleware_between_sees_the_hit(cache: Cache, whole: list[bool]) -> None:
    app = application(cache, between=True)
    async with serving(app, http="httptools", access_log=False) as port:
        answers = await exchange(port, asked(), asked(), asked())
    assert answers.count(b"access-control-allow-origin: *\r\n") == 3
    assert whole == []


async def test_what_the_client_has_is_not_sent(cache: Cache, whole: list[bool]) -> None:
    async with serving(application(cache), http="httptools", access_log=False) as port:
        first = await exchange(port, asked())
        found = re.search(rb"etag: (\S+)\r\n", first)
        assert found
        answer = await exchange(port, asked(If_None_Match=found[1].decode()), asked())
    assert answer.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert True not in whole
