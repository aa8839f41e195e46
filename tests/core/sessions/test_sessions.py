"""What a session does for those who mean well."""

import json

import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from redis.asyncio import Redis
from websockets import InvalidStatus, Origin
from websockets.asyncio.client import connect

from app.core.sessions import SessionConflict, SessionDependency, SessionEnded
from devservers.waiting import until
from tests.core.cache.http.serving import serving
from tests.core.sessions.conftest import MakeApp, MakeBrowser
from tests.core.sessions.harness import KEYS, NAME, Browser, make_sessions
from tests.core.sessions.looking import all_keys, clock, session_keys


async def test_a_visitor_without_data_costs_nothing(browser: MakeBrowser, redis: Redis) -> None:
    visitor = browser()
    assert (await visitor.who())["user"] is None
    assert visitor.session_id is None
    assert await all_keys(redis) == []


async def test_data_of_a_visitor_is_kept(browser: MakeBrowser, redis: Redis) -> None:
    visitor, other = browser(), browser()
    await visitor.put("/data", json={"cart": ["lamp"]})
    assert (await visitor.who())["data"] == {"cart": ["lamp"]}
    assert (await other.who())["data"] == {}
    assert len(await all_keys(redis)) == 1


async def test_logging_in_and_out(alice: Browser, redis: Redis) -> None:
    assert await alice.user() == "alice"
    assert (await alice.get("/private")).json() == "alice"
    await alice.post("/logout")
    assert alice.session_id is None
    assert await alice.user() is None
    assert (await alice.get("/private")).status_code == 401
    assert await all_keys(redis) == []


async def test_what_a_visitor_had_stays_theirs_after_the_login(browser: MakeBrowser) -> None:
    visitor = browser()
    await visitor.put("/data", json={"cart": ["lamp"]})
    await visitor.who()
    before = visitor.session_id
    await visitor.log_in("alice")
    assert visitor.session_id != before
    assert (await visitor.who())["data"] == {"cart": ["lamp"]}


async def test_one_users_data_is_not_the_next_ones(alice: Browser) -> None:
    await alice.put("/data", json={"cart": ["lamp"]})
    await alice.log_in("bob")
    assert (await alice.who())["data"] == {}


async def test_changes_deep_inside_are_noticed(browser: MakeBrowser, app: FastAPI) -> None:
    @app.put("/deep")
    async def deep(session: SessionDependency) -> None:
        session.data["cart"]["items"].append("chair")  # type: ignore[index, call-overload, union-attr]  # as we know

    visitor = browser()
    await visitor.put("/data", json={"cart": {"items": ["lamp"]}})
    await visitor.who()
    await visitor.put("/deep")
    assert (await visitor.who())["data"] == {"cart": {"items": ["lamp", "chair"]}}


async def test_another_id_keeps_the_rest(alice: Browser, browser: MakeBrowser) -> None:
    await alice.put("/data", json={"cart": 1})
    old = alice.session_id
    assert old is not None
    alice.remember((await alice.post("/rotate")).json())
    thief = browser()
    thief.session_id = old
    assert await thief.user() is None
    assert (await alice.who())["data"] == {"cart": 1}


async def test_logging_out_everywhere(browser: MakeBrowser, redis: Redis) -> None:
    phone, laptop, bob = browser(), browser(), browser()
    for device in (phone, laptop):
        await device.log_in("alice")
    await bob.log_in("bob")
    await phone.post("/logout-everywhere")
    assert [await device.user() for device in (phone, laptop, bob)] == [None, None, "bob"]


async def test_logging_out_everywhere_else(browser: MakeBrowser) -> None:
    phone, laptop = browser(), browser()
    for device in (phone, laptop):
        await device.log_in("alice")
    old = phone.session_id
    phone.remember((await phone.post("/logout-everywhere?keep=true")).json())
    assert [await device.user() for device in (phone, laptop)] == ["alice", None]
    assert phone.session_id != old


async def test_nobody_cannot_log_out_everywhere(browser: MakeBrowser) -> None:
    assert (await browser().post("/logout-everywhere")).status_code == 500


async def test_the_oldest_of_too_many_sessions_ends(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis
) -> None:
    app = make_app(max_per_user=3)
    devices = [browser(app) for _ in range(5)]
    for device in devices:
        await device.log_in("alice")
        began = await clock(redis)

        async def has_moved(since: float = began) -> bool:
            return await clock(redis) > since + 0.001

        await until(has_moved)  # they end in the order in which they began
    users = [await device.user() for device in devices]
    assert users == [None, None, "alice", "alice", "alice"]
    assert len(await all_keys(redis)) == 1 + 3


async def test_sessions_that_are_gone_do_not_count(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis
) -> None:
    app = make_app(max_per_user=2)
    first, second, third = (browser(app) for _ in range(3))
    await first.log_in("alice")
    [gone] = await session_keys(redis)
    await second.log_in("alice")
    await redis.delete(gone)  # as if it had expired
    await third.log_in("alice")
    assert [await device.user() for device in (second, third)] == ["alice", "alice"]


async def test_a_request_that_does_not_ask_for_its_session_pays_nothing(alice: Browser) -> None:
    answer = await alice.get("/nothing")
    assert {"vary", "set-cookie", "cache-control"}.isdisjoint(answer.headers)


@pytest.mark.parametrize(("status", "kept"), [(404, True), (409, True), (500, False), (503, False)])
async def test_a_server_error_changes_nothing(alice: Browser, status: int, kept: bool) -> None:
    cookie = alice.session_id
    assert (await alice.put(f"/data/{status}", json={"x": 1})).status_code == status
    assert alice.session_id == cookie
    assert bool((await alice.who())["data"]) is kept


async def test_saved_is_saved(browser: MakeBrowser) -> None:
    visitor = browser()
    assert (await visitor.put("/now", json={"x": 1})).status_code == 500
    assert (await visitor.who())["data"] == {"x": 1}


async def test_a_server_error_after_a_login_logs_nobody_out(alice: Browser, app: FastAPI) -> None:
    @app.post("/fail")
    async def fail(session: SessionDependency) -> None:
        session.log_in("bob")
        raise OSError

    assert (await alice.post("/fail")).status_code == 500
    assert await alice.user() == "alice"


async def test_too_much_at_a_login_logs_nobody_out(alice: Browser, app: FastAPI) -> None:
    @app.post("/fill")
    async def fill(session: SessionDependency) -> None:
        session.log_in("alice")
        session.data["x"] = "x" * 5000

    assert (await alice.post("/fill")).status_code == 500
    assert await alice.user() == "alice"


async def test_a_stream_comes_with_its_cookie(browser: MakeBrowser) -> None:
    visitor = browser()
    assert (await visitor.get("/stream")).text == "ab"
    assert (await visitor.who())["data"] == {"streamed": True}


async def test_what_is_not_json_is_a_mistake(alice: Browser, app: FastAPI) -> None:
    @app.post("/mistake")
    async def mistake(session: SessionDependency) -> None:
        session.data["x"] = object()  # type: ignore[assignment]  # the point

    assert (await alice.post("/mistake")).status_code == 500
    assert (await alice.who())["data"] == {}


async def test_routes_need_the_middleware() -> None:
    app = FastAPI()

    @app.get("/")
    async def route(session: SessionDependency) -> None: ...

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://service") as client:
        with pytest.raises(RuntimeError, match=r"add_middleware\(SessionMiddleware"):
            await client.get("/")


async def test_the_docs_say_that_there_is_a_cookie(alice: Browser) -> None:
    schema = (await alice.get("/openapi.json")).json()
    assert schema["components"]["securitySchemes"]["session"] == {
        "type": "apiKey",
        "in": "cookie",
        "name": NAME,
    }
    assert schema["paths"]["/private"]["get"]["security"] == [{"session": []}]
    assert "security" not in schema["paths"]["/nothing"]["get"]


async def test_a_route_that_saves_itself_hears_of_conflicts_and_ends(redis: Redis) -> None:
    sessions = make_sessions(redis)
    session = await sessions.open(None)
    session.log_in("alice")
    await session.save()
    cookie = session.new_cookie()
    assert cookie is not None
    one, other, late = [await sessions.open(cookie[0]) for _ in range(3)]
    one.data["x"], other.data["x"] = 1, 2
    await one.save()
    with pytest.raises(SessionConflict):
        await other.save()
    assert other.data == {"x": 1}
    other.data["x"] = 2
    await other.save()
    one.log_out()
    await one.save()
    late.data["y"] = 1
    with pytest.raises(SessionEnded):
        await late.save()
    assert (late.user, late.data, late.new_cookie()) == (None, {}, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": []},
        {"keys": [""]},
        {"keys": [KEYS[0], KEYS[0]]},
        {"prefix": "{x}"},
        {"prefix": ""},
        {"idle_timeout": 0},
        {"idle_timeout": 20, "absolute_timeout": 10},
        {"max_bytes": 0},
        {"max_per_user": 0},
        {"trusted_origins": ["app.example"]},
        {"trusted_origins": ["https://app.example/"]},
        {"trusted_origins": ["https://App.example"]},
    ],
    ids=str,
)
def test_wrong_options_are_refused(redis: Redis, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".{20}"):
        make_sessions(redis, **wrong)


async def test_a_web_socket_has_a_session_too(alice: Browser, app: FastAPI) -> None:
    @app.websocket("/socket")
    async def socket(socket: WebSocket, session: SessionDependency) -> None:
        await socket.accept()
        session.data["seen"] = True
        await session.save()
        await socket.send_json([session.user, session.data])
        await socket.close()

    cookie = {"cookie": f"{NAME}={alice.session_id}"}
    async with serving(app) as port:
        url = f"ws://127.0.0.1:{port}/socket"
        async with connect(url, additional_headers=cookie) as connection:
            assert json.loads(await connection.recv()) == ["alice", {"seen": True}]
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers=cookie, origin=Origin("https://evil.example"))
    assert refused.value.response.status_code == 403
    assert (await alice.who())["data"] == {"seen": True}
