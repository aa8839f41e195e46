"""Which cookie is the session's: by its bytes, once, and by the name of the service."""

from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from app.core.sessions.cookie import SessionCookie
from tests.core.sessions.conftest import MakeApp, MakeBrowser, RecordAttack
from tests.core.sessions.harness import NAME, Browser


async def user_of(browser: Browser, *cookies: bytes) -> str | None:
    """Who is logged in with these headers."""
    answer = await browser.get("/who", headers=[(b"cookie", cookie) for cookie in cookies])
    assert answer.status_code == 200
    user: str | None = answer.json()["user"]
    return user


async def test_names_are_compared_as_bytes(
    alice: Browser, browser: MakeBrowser, record_attack: RecordAttack
) -> None:
    await (mallory := browser()).log_in("mallory")
    real, planted = (f"{NAME}={b.session_id}".encode() for b in (alice, mallory))
    visitor = browser()
    tricks = [b"\xa0", b"\xc2\xa0", b"\x0b", b"\x1c", b"\x85", b"\xe2\x80\x89", b'"', b"$"]
    for trick in tricks:
        for name in (trick + planted, planted.replace(b"=", trick + b"=")):
            assert await user_of(visitor, name) is None, name
            assert await user_of(visitor, real + b"; " + name) == "alice", name
    assert await user_of(visitor, b" \t" + real + b" ;x=y;;=;z") == "alice"
    record_attack("a cookie of nearly the name", outcome="not seen", control="see twice")


@pytest.mark.parametrize("apart", [False, True])
async def test_a_session_cookie_that_comes_twice_is_none(
    alice: Browser, browser: MakeBrowser, apart: bool
) -> None:
    await (mallory := browser()).log_in("mallory")
    ids = [f"{NAME}={b.session_id}".encode() for b in (alice, mallory)]
    for pair in (ids, ids[::-1], [ids[0]] * 2):
        cookies: Sequence[bytes] = pair if apart else [b"; ".join(pair)]
        assert await user_of(browser(), *cookies) is None
    assert await user_of(browser(), ids[0], b"other=1") == "alice"


async def test_services_on_one_host_do_not_log_each_other_out(
    make_app: MakeApp, browser: MakeBrowser
) -> None:
    orders, billing = make_app(cookie="orders-session"), make_app(cookie="billing-session")
    jar = browser(orders)
    await jar.log_in("alice")
    other = browser(billing)
    other.cookies = jar.cookies
    await other.log_in("bob")
    jar.cookies = other.cookies
    assert set(jar.cookies) == {"__Host-orders-session", "__Host-billing-session"}
    assert [await jar.user(), await other.user()] == ["alice", "bob"]


async def test_sessions_of_the_old_name_go_on_for_one_absolute_timeout(
    make_app: MakeApp, browser: MakeBrowser
) -> None:
    now = 0.0
    app = make_app(cookie="orders-session", absolute_timeout=7200, clock=lambda: now)
    before = browser(make_app(absolute_timeout=7200))
    await before.log_in("alice")
    old = {"cookie": f"{NAME}={before.session_id}"}

    visitor = browser(app)
    answer = await visitor.get("/who", headers=old)
    assert answer.json()["user"] == "alice"
    renamed, removed = answer.headers.get_list("set-cookie")
    assert renamed.startswith(f"__Host-orders-session={before.session_id}; Path=/; Max-Age=7")
    assert removed.startswith(f"{NAME}=; Path=/; Max-Age=0")
    assert dict(visitor.cookies) == {"__Host-orders-session": before.session_id}
    assert await visitor.user() == "alice"

    now = 7201.0
    assert (await browser(app).get("/who", headers=old)).json()["user"] is None
    assert await visitor.user() == "alice"


async def test_the_old_cookie_of_another_service_stays(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis
) -> None:
    other = browser(make_app(prefix="billing:session"))
    await other.log_in("bob")
    visitor = browser(make_app(cookie="orders-session"))
    answer = await visitor.get("/who", headers={"cookie": f"{NAME}={other.session_id}"})
    assert (answer.json()["user"], answer.headers.get("set-cookie")) == (None, None)


async def test_logging_out_with_the_old_cookie(make_app: MakeApp, browser: MakeBrowser) -> None:
    before = browser(make_app())
    await before.log_in("alice")
    visitor = browser(make_app(cookie="orders-session"))
    headers = {
        "cookie": f"{NAME}={before.session_id}",
        "x-csrf-token": before.headers["x-csrf-token"],
    }
    answer = await visitor.post("/logout", headers=headers)
    assert answer.status_code == 200
    assert any(c.startswith(f"{NAME}=;") for c in answer.headers.get_list("set-cookie"))
    assert await before.user() is None


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "\u00e4", "a\n", "x" * 101])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a cookie"):
        SessionCookie(name)
