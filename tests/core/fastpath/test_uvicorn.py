"""A response in one piece is, byte for byte, what uvicorn makes of the same one through ASGI."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from app.core.fastpath import uvicorn as fast_uvicorn
from app.core.fastpath.uvicorn import RawResponseSender, head_of
from app.core.observability.requests import UNMATCHED, RequestMiddleware
from app.core.responses import Headers, PreparedResponse, ResponseSender
from devservers.waiting import HANG
from tests.support.fastpath import chosen

BODY = b"the same for everybody"
LENGTH = (b"content-length", b"%d" % len(BODY))
PLAIN: Headers = [(b"content-type", b"text/plain"), LENGTH, (b"age", b"1")]


class Answering:
    """Answers in one piece where it can, unless the path is /asgi."""

    def __init__(self, headers: Headers = PLAIN, body: bytes = BODY) -> None:
        self.ready = PreparedResponse(200, headers, body)
        self.whole: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        assert isinstance(send, ResponseSender)
        self.whole.append(scope["path"] != "/asgi" and send.send_raw(self.ready))
        if not self.whole[-1]:
            headers = self.ready.headers.copy()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self.ready.body})


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    """The port of a real server."""
    settings = {"access_log": False, "server_header": False, "log_level": "critical", **options}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(RequestMiddleware(app), **settings))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def exchange(port: int, *requests: str) -> bytes:
    """What comes back for raw requests on one connection, of which the last one is to close it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(f"{request}\r\nHost: service\r\nX-Request-ID: id\r\n\r\n".encode())
    async with asyncio.timeout(HANG):
        answer = await reader.read()
    writer.close()
    return re.sub(rb"date: [^\r]+", b"date: now", answer)


CLOSING = "GET /asgi HTTP/1.1\r\nConnection: close"


async def test_the_bytes_are_the_same() -> None:
    app = Answering()
    async with serving(app, http="httptools") as port:
        whole = await exchange(port, *["GET / HTTP/1.1"] * 3, CLOSING)
        through_asgi = await exchange(port, *["GET /asgi HTTP/1.1"] * 3, CLOSING)
    assert app.whole == [True] * 3 + [False] * 5
    assert whole == through_asgi
    assert whole.count(b"x-request-id: id\r\n") == whole.count(BODY) == 4


async def test_it_is_counted() -> None:
    labels = {"method": "GET", "route": UNMATCHED, "status": "203"}
    before = REGISTRY.get_sample_value("http_requests_total", labels) or 0
    app = Answering()
    app.ready = PreparedResponse(203, PLAIN, BODY)
    async with serving(app, http="httptools") as port:
        answer = await exchange(port, "GET / HTTP/1.1", "GET / HTTP/1.1", CLOSING)
    assert answer.count(b"HTTP/1.1 203 Non-Authoritative Information\r\n") == 2
    assert REGISTRY.get_sample_value("http_requests_total", labels) == before + 2


def test_the_headers_of_the_server_are_those_of_now() -> None:
    ready = PreparedResponse(200, PLAIN, BODY)
    for now in (b"1", b"1", b"2"):
        head = head_of(ready, [(b"date", now)])
        assert head is not None
        assert head[0].startswith(b"HTTP/1.1 200 OK\r\ndate: " + now + b"\r\n")


async def test_a_header_of_the_server_may_close_the_connection() -> None:
    app = Answering()
    options = {"http": "httptools", "headers": [("Connection", "close")]}
    async with serving(app, timeout_keep_alive=60, **options) as port:
        answer = await exchange(port, "GET / HTTP/1.1")
    assert answer.endswith(BODY)
    assert app.whole == [False]


class Less:
    """What uvicorn's cycles might become."""

    def __init__(self) -> None:
        self.transport = None


class More:
    def __init__(self) -> None:
        self.access_log = self.access_logger = self.chunked_encoding = self.default_headers = None
        self.disconnected = self.expected_content_length = self.flow = self.keep_alive = None
        self.logger = self.message_event = self.more_body = self.on_response = self.scope = None
        self.response_complete = self.response_started = self.transport = None
        self.waiting_for_100_continue = None
        self.body = bytearray()
        self.trailers = None


class NotPython:
    """Without an `__init__` that can be looked at."""


@pytest.mark.parametrize("cycle", [Less, More, NotPython])
def test_a_cycle_of_another_kind_is_not_known(cycle: type[Any]) -> None:
    assert not fast_uvicorn.is_known(cycle)


@pytest.mark.parametrize(
    ("first", "options"),
    [
        ("HEAD / HTTP/1.1", {}),
        ("GET / HTTP/1.0", {}),
        ("GET / HTTP/1.1\r\nConnection: close", {}),
        ("GET / HTTP/1.1", {"access_log": True}),
        ("GET / HTTP/1.1", {"http": "h11"}),
    ],
)
async def test_what_is_not_as_usual_goes_through_asgi(first: str, options: dict[str, Any]) -> None:
    app = Answering()
    async with serving(app, **({"http": "httptools"} | options)) as port:
        answer = await exchange(port, first, CLOSING)
    assert set(app.whole) == {False}
    assert answer.lower().startswith(b"http/1.1 200 ok\r\n")
    assert BODY in answer


@pytest.mark.parametrize(
    "headers",
    [
        PLAIN[:1],
        [(b"content-length", b"1")],
        [LENGTH, LENGTH],
        [LENGTH, (b"content-length", b"1")],
        [LENGTH, (b"x-split", b"a\r\nset-cookie: b")],
        [LENGTH, (b"x split", b"a")],
        [LENGTH, (b"", b"a")],
        [LENGTH, (b"connection", b"close")],
        [LENGTH, (b"transfer-encoding", b"chunked")],
    ],
)
async def test_a_head_that_a_server_has_to_look_at_goes_through_asgi(headers: Headers) -> None:
    app = Answering(headers)
    async with serving(app, http="httptools") as port:
        answer = await exchange(port, "GET / HTTP/1.1", CLOSING)
    assert set(app.whole) == {False}
    assert b"set-cookie" not in answer


async def test_a_client_that_does_not_read_is_waited_for() -> None:
    body = b"x" * 60_000
    app = Answering([(b"content-length", b"60000")], body)
    count = 400
    async with serving(app, http="httptools") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        request = b"GET / HTTP/1.1\r\nHost: service\r\nX-Request-ID: id\r\n\r\n"
        writer.write(request * count)
        await asyncio.sleep(0.3)
        kept_back = count - len(app.whole)
        async with asyncio.timeout(20):
            received = 0
            while received < count * len(body):
                received += (await reader.read(1 << 20)).count(b"x")
        writer.close()
    assert kept_back > 0, "it was answered into memory"
    assert len(app.whole) == count


async def test_a_large_body_is_not_copied() -> None:
    body = b"x" * 100_000
    app = Answering([(b"content-length", b"100000")], body)
    async with serving(app, http="httptools") as port:
        answer = await exchange(port, "GET / HTTP/1.1", CLOSING)
    assert set(app.whole) == {False}
    assert answer.count(body) == 2


async def test_a_second_answer_goes_through_asgi_which_refuses_it() -> None:
    found: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert isinstance(send, ResponseSender)
            found.extend(send.send_raw(PreparedResponse(200, PLAIN, BODY)) for _ in range(2))

    async with serving(app, http="httptools") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")
        assert (await reader.readuntil(BODY)).count(b"HTTP/1.1 200 OK") == 1
        writer.close()
    assert found == [True, False]


async def test_a_client_that_is_gone_gets_nothing() -> None:
    found: list[bool] = []
    arrived = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        assert isinstance(send, ResponseSender)
        found.append(send.send_raw(PreparedResponse(200, PLAIN, BODY)))

    async with serving(app, http="httptools") as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")
        await arrived.wait()
        writer.close()
    assert found == [False]


async def test_without_the_fast_path_it_is_answered_through_asgi() -> None:
    app = Answering()
    with chosen(fast=False):
        async with serving(app, http="httptools") as port:
            assert BODY in await exchange(port, "GET / HTTP/1.1", CLOSING)
    assert set(app.whole) == {False}


async def test_without_a_server_it_is_a_send_like_any() -> None:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    answering = RawResponseSender(send, b"id", 499)
    assert not answering.send_raw(PreparedResponse(200, PLAIN, BODY))
    assert answering.status == 499
    await answering({"type": "http.response.start", "status": 200, "headers": PLAIN})
    assert answering.status == 200
    assert messages[0]["headers"] == [*PLAIN, (b"x-request-id", b"id")]
    assert (b"x-request-id", b"id") not in PLAIN
