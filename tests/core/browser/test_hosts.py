"""Only requests for a host of the service are answered."""

from typing import Any

import pytest
from starlette.types import Message

from tests.core.browser.conftest import MakeApp
from tests.core.cache.http.serving import asking, exchange, serving
from tests.support.problems import problem_of

HOSTS = ["api.example", "*.inner.example", "[::1]"]


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("api.example", True),
        ("API.Example:8000", True),
        ("a.inner.example", True),
        ("a.b.inner.example:443", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("inner.example", False),
        ("evil.example", False),
        ("api.example.evil.example", False),
        ("evilinner.example", False),
        ("api.example@evil.example", False),
        ("api.example:evil.example", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
async def test_a_request_names_a_host_of_the_service(
    make_app: MakeApp, host: str, known: bool
) -> None:
    async with asking(make_app(hosts=HOSTS, cors={"origins": ["*"]})) as client:
        answer = await client.get("/items/7", headers={"host": host})
        probe = await client.get("/health/live", headers={"host": host})
    assert answer.status_code == (200 if known else 400)
    if not known:
        problem_of(answer)
    assert probe.status_code == 200, "probes name whatever address they have"


async def test_of_two_hosts_and_of_none_nobody_knows_which(make_app: MakeApp) -> None:
    async with serving(make_app(hosts=["service"]), http="httptools") as port:
        one = await exchange(port, "GET /items/7 HTTP/1.1\r\n")  # `Host: service` comes last
        two = await exchange(port, "GET /items/7 HTTP/1.1\r\nHost: service\r\n")
    assert one.startswith(b"HTTP/1.1 200")
    assert two.startswith(b"HTTP/1.1 400")


async def test_a_prefix_of_all_paths_is_no_part_of_a_probe(make_app: MakeApp) -> None:
    app = make_app(hosts=HOSTS)
    app.root_path = "/api"
    async with asking(app) as client:
        assert (await client.get("/api/health/live")).status_code == 200
        assert (await client.get("/api/items/7")).status_code == 400


@pytest.mark.parametrize(("host", "answer"), [("api.example", "accept"), ("evil", "close")])
async def test_a_web_socket_names_a_host_of_the_service(
    make_app: MakeApp, host: str, answer: str
) -> None:
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        messages.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/socket",
        "headers": [(b"host", host.encode())],
        "query_string": b"",
        "subprotocols": [],
        "scheme": "ws",
    }
    await make_app(hosts=HOSTS)(scope, receive, send)
    assert messages[0]["type"] == f"websocket.{answer}"


async def test_without_the_middleware_any_host_is_answered(make_app: MakeApp) -> None:
    async with asking(make_app()) as client:
        answer = await client.get("/items/7", headers={"host": "evil.example"})
    assert answer.status_code == 200
