"""Pages of other origins: who may read what, also where the answer was cached for another one."""

from typing import Any

import httpx2
import pytest
from fastapi import Response
from redis.asyncio import Redis

from app.core.application import Application
from app.core.browser import CorsMiddleware
from app.core.fastpath.uvicorn import RawResponseSender
from app.core.responses import PreparedResponse
from tests.core.browser.conftest import MakeApp, asking_a_server
from tests.core.cache.http.serving import asking, status
from tests.support.fastpath import chosen
from tests.support.problems import problem_of

APP, ADMIN, STRANGER = "https://app.example", "http://localhost:3000", "https://evil.example"
NAMED: dict[str, Any] = {"origins": [APP, ADMIN]}
ALLOW = "access-control-allow-origin"
PREFLIGHT = {"access-control-request-method": "PUT"}


def says(answer: httpx2.Response) -> dict[str, str]:
    """What an answer says about CORS."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-")}


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


@pytest.mark.parametrize("path", ["/items/7", "/mine/7", "/page"])
@pytest.mark.parametrize("fast", [True, False])
async def test_a_hit_names_the_origin_that_asks(
    make_app: MakeApp, redis: Redis, whole: list[bool], path: str, fast: bool
) -> None:
    with chosen(fast=fast):
        async with asking_a_server(make_app(cors=NAMED)) as client:
            await client.get(path, headers={"origin": APP})  # which fills the entry
            for asks in (ADMIN, APP, STRANGER, None, ADMIN, "null"):
                answer = await client.get(path, headers={"origin": asks} if asks else {})
                assert status(answer) == "hit"
                allowed = answer.headers.get_list(ALLOW)
                assert allowed == ([asks] if asks in NAMED["origins"] else [])
                # Nobody in between may send it to another one.
                assert "origin" in answer.headers["vary"].lower()
    if fast:
        assert whole == [True] * 7
    keys = [key async for key in redis.scan_iter(_type="string")]
    kept = b"".join([value for value in await redis.mget(keys) if isinstance(value, bytes)])
    assert b"content-type" in kept
    assert b"access-control" not in kept


FAILURES: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "cached": ("GET", "/items/0", 404, {}),
    "not modified": ("GET", "/items/7", 304, {"if-none-match": "*"}),
    "precondition": ("GET", "/items/7", 412, {"if-match": '"other"'}),
    "invalid": ("GET", "/items/x", 422, {}),
    "no route": ("GET", "/nowhere", 404, {}),
    "no method": ("PUT", "/items/7", 405, {}),
    "broken": ("GET", "/broken", 500, {}),
    "a write": ("POST", "/items", 201, {}),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_page_can_read_every_kind_of_answer(make_app: MakeApp, kind: str) -> None:
    method, path, code, headers = FAILURES[kind]
    async with asking(make_app(cors=NAMED)) as client:
        await client.get("/items/7")
        answer = await client.request(method, path, headers={"origin": APP, **headers})
    assert answer.status_code == code
    assert answer.headers.get_list(ALLOW) == [APP]
    assert answer.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/items/7", "/items", "/nowhere"])
async def test_a_preflight_is_answered_for_every_route(make_app: MakeApp, path: str) -> None:
    asked = PREFLIGHT | {"access-control-request-headers": "content-type,x-csrf-token"}
    async with asking(make_app(cors=NAMED)) as client:
        allowed = await client.options(path, headers={"origin": APP, **asked})
        refused = await client.options(path, headers={"origin": STRANGER, **asked})
        odd = {"access-control-request-headers": "x\x7f"}
        no_names = await client.options(path, headers={"origin": APP, **PREFLIGHT, **odd})
        # What is no preflight is the application's.
        plain = await client.options(path, headers={"origin": APP})
    assert (allowed.status_code, allowed.content) == (204, b"")
    assert (
        says(allowed).items()
        >= {
            ALLOW: APP,
            "access-control-allow-headers": "content-type,x-csrf-token",
            "access-control-max-age": "600",
        }.items()
    )
    assert "PUT" in allowed.headers["access-control-allow-methods"].split(", ")
    assert refused.status_code == 403
    assert problem_of(refused)["detail"]
    assert says(refused) == {}
    assert "access-control-allow-headers" not in no_names.headers
    assert plain.status_code in (404, 405)


async def test_all_origins_are_told_the_same(make_app: MakeApp) -> None:
    async with asking(make_app(cors={"origins": ["*"]})) as client:
        for headers in ({"origin": STRANGER}, {"origin": "null"}, {}):
            answer = await client.get("/items/7", headers=headers)
            assert answer.headers.get_list(ALLOW) == ["*"]
            assert "vary" not in answer.headers
        preflight = await client.options("/items/7", headers={"origin": STRANGER, **PREFLIGHT})
        assert (preflight.status_code, preflight.headers[ALLOW]) == (204, "*")


async def test_credentials_are_for_named_origins(make_app: MakeApp) -> None:
    async with asking(make_app(cors=NAMED | {"credentials": True})) as client:
        answers = [await client.get("/mine/7", headers={"origin": o}) for o in (APP, STRANGER)]
    assert answers[0].headers["access-control-allow-credentials"] == "true"
    assert "ETag" in answers[0].headers["access-control-expose-headers"]
    assert says(answers[1]) == {}
    with pytest.raises(ValueError, match="named origins"):
        CorsMiddleware(Application(), origins=["*"], credentials=True)


async def test_of_two_origins_none_is_allowed(make_app: MakeApp) -> None:
    async with asking(make_app(cors=NAMED)) as client:
        answer = await client.get("/items/7", headers=[("origin", APP), ("origin", APP)])
    assert says(answer) == {}


async def test_a_route_may_have_its_own(make_app: MakeApp) -> None:
    """As a middleware inside may: there is never more than one."""
    app = make_app(cors=NAMED)

    @app.get("/open")
    async def read() -> Any:
        return Response(headers={ALLOW: "*", "vary": "Accept"})

    async with asking(app) as client:
        answer = await client.get("/open", headers={"origin": APP})
    assert answer.headers.get_list(ALLOW) == ["*"]
    assert answer.headers.get_list("vary") == ["Accept", "Origin"]


async def test_where_it_is_not_set_there_is_no_trace(make_app: MakeApp) -> None:
    async with asking(make_app()) as client:
        answer = await client.get("/items/7", headers={"origin": APP})
        preflight = await client.options("/items/7", headers={"origin": APP, **PREFLIGHT})
    assert says(answer) == {}
    assert "vary" not in answer.headers
    assert preflight.status_code == 405


async def test_another_middleware_outside_changes_nothing(make_app: MakeApp) -> None:
    """It may hide the `send` to which headers are added."""
    app = make_app()

    async def hiding(scope: Any, receive: Any, send: Any) -> None:
        async def hidden(message: Any) -> None:
            await send(message)

        await CorsMiddleware(app, **NAMED)(scope, receive, hidden)

    async with asking(hiding) as client:
        for _ in range(2):
            answer = await client.get("/items/7", headers={"origin": APP})
    assert status(answer) == "hit"
    assert answer.headers[ALLOW] == APP
