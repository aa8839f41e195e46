"""What browsers send: the cookie and its rules, and writes that a page of somebody else sends."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, Request
from starlette.datastructures import UploadFile

from app.core.sessions import (
    LoginSessionDependency,
    SessionDependency,
    dependency,
    store,
)
from tests.core.sessions.conftest import MakeApp, MakeBrowser, RecordAttack
from tests.core.sessions.harness import NAME, Browser


async def test_cookie_attributes(
    make_app: MakeApp, browser: MakeBrowser, record_attack: RecordAttack
) -> None:
    async def cookie(base_url: str, **options: Any) -> list[str]:
        visitor = browser(make_app(**options), base_url=base_url)
        answer = await visitor.put("/data", json={"x": 1})
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Cookie"
        [header] = answer.headers.get_list("set-cookie")
        name, *rules = header.split("; ")
        return [name.partition("=")[0], *sorted(rules)]

    rules = ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Lax"]
    strict = [NAME, *rules, "Secure"]
    for base_url in ("https://service", "http://service", "http://localhost", "http://127.0.0.1"):
        assert without_age(await cookie(base_url)) == without_age(strict)
    # In development a browser on the same machine gets along without TLS; no other one does.
    for base_url in ("https://localhost", "http://service", "http://localhost.evil.example"):
        options = {"plain_on_loopback": True}
        assert without_age(await cookie(base_url, **options)) == without_age(strict)
    for base_url in ("http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]"):
        plain = await cookie(base_url, plain_on_loopback=True)
        assert without_age(plain) == without_age(["session", *rules])
    record_attack(
        "cookie attributes", outcome="__Host-, Secure, HttpOnly, Lax", control="only on loopback"
    )


def without_age(parts: list[str]) -> list[str]:
    [age] = [part for part in parts if part.startswith("Max-Age=")]
    assert 43_100 < int(age.removeprefix("Max-Age=")) <= 43_200
    return [part for part in parts if part != age]


@pytest.mark.parametrize(
    ("headers", "token", "refused"),
    [
        ({"sec-fetch-site": "cross-site"}, True, True),
        ({"sec-fetch-site": "same-site"}, True, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://service"}, True, True),
        ({"origin": "https://evil.example"}, True, True),
        ({"origin": "https://service.evil.example"}, True, True),
        ({"origin": "null"}, True, True),
        ({"origin": "http://service"}, True, True),
        ({"origin": "http://app.example"}, True, True),
        ({"origin": "https://service:444"}, True, True),
        ({}, False, True),
        ({"sec-fetch-site": "same-origin"}, False, True),
        ({"sec-fetch-site": "same-origin", "origin": "https://service"}, True, False),
        ({"origin": "https://service"}, True, False),
        ({"sec-fetch-site": "same-site", "origin": "https://app.example"}, True, False),
        ({}, True, False),
    ],
    ids=str,
)
async def test_csrf(
    make_app: MakeApp,
    browser: MakeBrowser,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
    headers: dict[str, str],
    token: bool,
    refused: bool,
) -> None:
    alice = browser(make_app(trusted_origins=["https://app.example"]))
    await alice.log_in("alice")
    if not token:
        alice.remember("x")
    for method in ("PUT", "POST"):
        path = "/data" if method == "PUT" else "/rotate"
        answer = await alice.request(method, path, json={"stolen": True}, headers=headers)
        assert (answer.status_code == 403) is refused, answer.text
        if method == "PUT":
            assert bool((await alice.get("/who")).json()["data"]) is not refused
    if refused:
        without.setattr(dependency, "is_write", lambda *_: False)
        assert (await alice.put("/data", json={"stolen": 1}, headers=headers)).status_code == 200
        if headers == {"origin": "null"}:
            record_attack("CSRF", outcome="403, nothing changed", control="the write is made")


async def test_the_token_is_that_of_the_session(alice: Browser, browser: MakeBrowser) -> None:
    mallory = browser()
    await mallory.log_in("mallory")
    alice.remember((await mallory.who())["token"])
    assert (await alice.put("/data", json={})).status_code == 403


async def test_a_missing_token_is_asked_for(alice: Browser) -> None:
    del alice.headers["x-csrf-token"]
    answer = await alice.put("/data", json={})
    assert (answer.status_code, "needs the session's token" in answer.text) == (403, True)


async def test_nobody_is_logged_in_by_a_foreign_page(browser: MakeBrowser) -> None:
    victim = browser()
    answer = await victim.post("/login/mallory", headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, victim.session_id) == (403, None)


async def test_reading_is_no_write(alice: Browser) -> None:
    answer = await alice.get("/who", headers={"sec-fetch-site": "cross-site", "x-csrf-token": ""})
    assert answer.json()["user"] == "alice"


def test_a_token_says_nothing_about_the_id() -> None:
    first, second = store.new_id(user="alice"), store.new_id(user="alice")
    assert store.csrf_token(first) != store.csrf_token(second)
    assert store.csrf_token(first) not in (store.digest(first), first)


@pytest.mark.parametrize(
    ("base_url", "origin", "plain_on_loopback", "status"),
    [
        # Also where TLS ends before us and nobody says so.
        ("http://service", "https://service", False, 200),
        ("http://service", "http://service", False, 403),
        ("http://localhost", "http://localhost", False, 403),
        ("http://localhost:8000", "http://localhost:8000", True, 200),
        ("http://localhost:8000", "http://localhost:8001", True, 403),
        ("https://localhost", "http://localhost", True, 403),
    ],
)
async def test_a_page_without_tls_is_of_this_service_in_development_only(
    make_app: MakeApp,
    browser: MakeBrowser,
    base_url: str,
    origin: str,
    plain_on_loopback: bool,
    status: int,
) -> None:
    visitor = browser(make_app(plain_on_loopback=plain_on_loopback), base_url=base_url)
    answer = await visitor.post("/login/mallory", headers={"origin": origin})
    assert answer.status_code == status


FORM = {"content-type": "application/x-www-form-urlencoded"}


async def test_a_form_brings_the_token_as_a_field(alice: Browser) -> None:
    token = alice.headers.pop("x-csrf-token")
    for form, status in (
        (f"csrf_token={token}x", 403),
        ("csrf_token=", 403),
        ("csrf_token=%ff%00", 403),
        ("other=1", 403),
        ("&".join(["a=1"] * 2000) + f"&csrf_token={token}", 403),
        (f"other={'x' * 2_000_000}&csrf_token={token}", 403),
        (f"other=1&csrf_token={token}", 200),
    ):
        answer = await alice.post("/logout", content=form, headers=FORM)
        assert answer.status_code == status, form[:40]
    assert await alice.user() is None


async def test_whoever_sends_a_form_that_is_not_searched_is_told_why(alice: Browser) -> None:
    token = alice.headers.pop("x-csrf-token")

    async def in_chunks() -> AsyncIterator[bytes]:
        yield f"csrf_token={token}".encode()

    long = f"other={'x' * 2_000_000}&csrf_token={token}"
    for form, why in (
        (long, "1048576 bytes"),
        (in_chunks(), "Content-Length"),
        ("a=1", "of a form"),
    ):
        answer = await alice.post("/logout", content=form, headers=FORM)
        assert answer.status_code == 403
        assert "as X-CSRF-Token" in answer.json()["detail"]
        assert why in answer.json()["detail"]
    in_a_header = {**FORM, "x-csrf-token": token}
    assert (await alice.post("/logout", content=in_chunks(), headers=in_a_header)).is_success


async def test_only_a_form_has_fields_and_a_header_goes_first(alice: Browser) -> None:
    token = alice.headers.pop("x-csrf-token")
    for kind in ("text/plain", "application/json", "multipart/form-data"):
        answer = await alice.post(
            "/logout", content=f"csrf_token={token}", headers={"content-type": kind}
        )
        assert answer.status_code == 403, kind
    wrong = {**FORM, "x-csrf-token": "wrong"}
    answer = await alice.post("/logout", content=f"csrf_token={token}", headers=wrong)
    assert answer.status_code == 403
    assert await alice.user() == "alice"


async def whole(session: SessionDependency, request: Request) -> str:
    return (await request.body()).decode()


async def parsed(session: SessionDependency, request: Request) -> str:
    return str((await request.form())["x"])


async def declared(session: SessionDependency, x: Annotated[str, Form()]) -> str:
    return x


async def uploaded(session: SessionDependency, request: Request) -> str:
    file = (await request.form())["file"]
    assert isinstance(file, UploadFile)
    return (await file.read()).decode()


FILE = {"file": ("a.txt", b"text")}


@pytest.mark.parametrize(
    ("route", "files", "part"),
    [
        (whole, None, "x=1&csrf_token="), (whole, FILE, 'filename="a.txt"'),
        (parsed, None, "1"), (parsed, FILE, "1"),
        (declared, None, "1"), (declared, FILE, "1"),
        (uploaded, FILE, "text"),
    ],
)  # fmt: skip
async def test_a_route_has_its_form_after_the_token_was_read(
    alice: Browser,
    app: FastAPI,
    route: Callable[..., Any],
    files: dict[str, Any] | None,
    part: str,
) -> None:
    app.add_api_route("/form", route, methods=["POST"])
    token = alice.headers.pop("x-csrf-token")
    answer = await alice.post("/form", data={"x": "1", "csrf_token": token}, files=files)
    assert answer.status_code == 200, answer.text
    assert part in answer.json()
    forged = await alice.post("/form", data={"x": "1", "csrf_token": "1" + token}, files=files)
    assert forged.status_code == 403


@pytest.mark.parametrize(
    "body",
    [b"", b"--b\r\n", b"--b\r\nno header\r\n\r\nx\r\n--b--", b"\x00" * 100],
    ids=["empty", "cut", "nonsense", "zeros"],
)
async def test_parts_that_nobody_can_read_bring_no_token(alice: Browser, body: bytes) -> None:
    del alice.headers["x-csrf-token"]
    for kind in ("multipart/form-data; boundary=b", "multipart/form-data"):
        answer = await alice.post("/logout", content=body, headers={"content-type": kind})
        assert answer.status_code == 403
    assert await alice.user() == "alice"


async def test_logging_in_needs_no_token_of_the_session_before(
    alice: Browser, app: FastAPI
) -> None:
    @app.post("/switch")
    async def switch(session: LoginSessionDependency) -> None:
        session.log_in("bob")

    async def also(session: LoginSessionDependency, again: SessionDependency) -> None:
        raise AssertionError("not without a token")

    app.add_api_route("/both", also, methods=["POST"])
    before = alice.session_id
    del alice.headers["x-csrf-token"]
    assert (await alice.post("/both")).status_code == 403
    foreign = {"origin": "https://evil.example"}
    assert (await alice.post("/switch", headers=foreign)).status_code == 403
    assert await alice.user() == "alice"
    del alice.headers["x-csrf-token"]
    assert (await alice.post("/switch", headers={"origin": "https://service"})).status_code == 200
    assert (await alice.user(), alice.session_id != before) == ("bob", True)
