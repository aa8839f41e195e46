"""Who asks, in services that know it from sessions, from tokens, from both, and from neither."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection
from structlog.testing import capture_logs

from app.core import identity
from app.core.access import DEVELOPMENT_SECRET, Access, TokenRules, Verifier, load_policy
from app.core.access.audit import Audit
from app.core.access.jwks import DEVELOPMENT_ALGORITHM, DevelopmentKeys
from app.core.cache import Cache
from app.core.cache.http import checks
from app.core.cache.http.checks import UnsafeRoute
from app.core.error_answers import try_again_later
from app.core.identity import (
    Identities,
    Identity,
    IdentityDependency,
    RequireRole,
    get_identity,
    get_roles,
)
from app.core.redis import ClientOptions
from app.core.serializers.json import JsonSerializer
from app.core.service import Layer, Service
from app.core.sessions import (
    LoginSessionDependency,
    SessionMiddleware,
    get_session,
    get_user,
    open_session,
)
from app.wiring.identity import install_identity
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE
from tests.core.sessions.harness import Browser, make_sessions

POLICY = """
[connection]
commands = ["ping"]

[roles.audit]
about = "what the servers have denied"
keys = ["{service}:access:*"]
commands = ["acl|log"]

[roles.admin]
about = "a login of Redis that is called like a role of people"
keys = ["{service}:data"]
commands = ["get"]

[[identities]]
claim = "groups"
value = "operators"
role = "admin"

[[application_roles]]
claim = "groups"
value = "admins"
role = "admin"

[[application_roles]]
claim = "groups"
value = "editors"
role = "editor"
"""
OPTIONS = ClientOptions(
    name="test", timeout=PATIENCE, connect_timeout=PATIENCE, pool_timeout=PATIENCE
)
ROLES: dict[str, set[str]] = {}
"""Where the roles of users are kept."""

SESSIONS, TOKENS, BOTH, NEITHER = ("sessions",), ("tokens",), ("sessions", "tokens"), ()
Feature = Callable[[Cache], APIRouter]
require_admin = RequireRole("admin")


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(autouse=True)
def roles() -> None:
    ROLES.clear()
    ROLES["ann"] = {"admin"}


def make(
    valkey: EmbeddedValkey, folder: Path, ways: tuple[str, ...], *features: Feature
) -> FastAPI:
    """A service with these ways to prove who asks."""
    name = f"test-{uuid4().hex[:8]}"
    service = Service(name, redis_url=valkey.url, redis_options=OPTIONS)
    cache = Cache(
        service.redis("cache"),
        service=name,
        serializer=JsonSerializer(),
        read_timeout=PATIENCE,
    )
    service.open(cache)
    identities = install_identity(service)
    if "tokens" in ways:
        add_tokens(service, identities, folder / "access.toml")
    if "sessions" in ways:
        add_sessions(service, identities)
    for router in (make_router(), *(feature(cache) for feature in features)):
        service.include(router)
    return service.app()


@asynccontextmanager
async def serving(
    valkey: EmbeddedValkey, folder: Path, ways: tuple[str, ...], *features: Feature
) -> AsyncIterator[Browser]:
    app = make(valkey, folder, ways, *features)
    async with app.router.lifespan_context(app), Browser(app) as browser:
        yield browser


def add_tokens(service: Service, identities: Identities, path: Path) -> None:
    path.write_text(POLICY)
    policy = load_policy(path, service="test")
    rules = TokenRules(issuer="issuer", audience="test", algorithms=[DEVELOPMENT_ALGORITHM])
    verifier = Verifier(DevelopmentKeys(DEVELOPMENT_SECRET), rules, policy)
    client = service.redis("commands")
    audit = Audit(client, users={}, prefix="test:access", interval=60)
    Access(policy, verifier, connect=lambda _: client, audit=audit).identify(identities)


def add_sessions(service: Service, identities: Identities) -> None:
    async def by_session(connection: HTTPConnection) -> Identity | None:
        user = (await open_session(connection)).user
        return None if user is None else Identity(user, frozenset(ROLES[user]), proof="session")

    identities.by_session(by_session, get_session)
    service.middleware(
        SessionMiddleware,
        layer=Layer.INSIDE_CACHE,
        sessions=make_sessions(service.redis("sessions")),
        unavailable=try_again_later,
    )


def make_router() -> APIRouter:
    router = APIRouter()

    @router.post("/login/{user}")
    async def log_in(user: str, session: LoginSessionDependency) -> str:
        ROLES.setdefault(user, set())
        session.log_in(user)
        return session.csrf_token

    @router.get("/who")
    async def who(identity: IdentityDependency) -> list[Any]:
        return [identity.subject, sorted(identity.roles), identity.proof]

    @router.post("/admin", dependencies=[Depends(require_admin)])
    async def write() -> str:
        return "written"

    return router


def token(subject: str, *groups: str, **changes: Any) -> dict[str, str]:
    """The header of a request by `subject`, who is in these groups."""
    claims: dict[str, Any] = {
        "sub": subject,
        "groups": list(groups),
        "iss": "issuer",
        "aud": "test",
        "exp": int(time.time()) + 600,
    }
    signed = jwt.encode(
        claims | changes, DEVELOPMENT_SECRET, "HS256", headers={"kid": "development"}
    )
    return {"authorization": f"Bearer {signed}"}


@pytest.mark.parametrize("ways", [SESSIONS, TOKENS, BOTH, NEITHER], ids=str)
async def test_a_role_opens_what_it_is_for(
    valkey: EmbeddedValkey, tmp_path: Path, ways: tuple[str, ...]
) -> None:
    async with serving(valkey, tmp_path, ways) as browser:
        nobody = [await browser.get("/who"), await browser.post("/admin")]
        assert [answer.status_code for answer in nobody] == [401, 401]
        # A browser has no use for the challenge of a token that nobody takes.
        challenge = "Bearer" if "tokens" in ways else "APIKey"
        assert {answer.headers["www-authenticate"] for answer in nobody} == {challenge}
        if "tokens" in ways:
            for subject, groups, status in [("ann", ["admins"], 200), ("bob", ["editors"], 403)]:
                headers = token(subject, *groups)
                assert (await browser.post("/admin", headers=headers)).status_code == status
            answer = await browser.get("/who", headers=token("ann", "admins", "editors", "x"))
            assert answer.json() == ["ann", ["admin", "editor"], "token"]
        if "sessions" in ways:
            await browser.log_in("ann")
            assert (await browser.get("/who")).json() == ["ann", ["admin"], "session"]
            assert (await browser.post("/admin")).status_code == 200
            await browser.log_in("bob")
            with capture_logs() as logs:
                assert (await browser.post("/admin")).status_code == 403
            assert [
                line["needed"] for line in logs if line["event"] == "identity.role_missing"
            ] == [["admin"]]


async def test_a_redis_role_is_no_role_of_people(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async with serving(valkey, tmp_path, TOKENS) as browser:
        headers = token("eve", "operators")  # whose login of Redis is called admin
        assert (await browser.get("/who", headers=headers)).json() == ["eve", [], "token"]
        assert (await browser.post("/admin", headers=headers)).status_code == 403


async def test_a_role_that_is_taken_away_is_gone_with_the_next_request(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async with serving(valkey, tmp_path, SESSIONS) as browser:
        await browser.log_in("ann")
        assert (await browser.post("/admin")).status_code == 200
        ROLES["ann"].clear()
        assert (await browser.post("/admin")).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        "Bearer forged",
        "Bearer",
        "bearer ",
        "BEARER a.b.c",
        token("ann", "admins", exp=1)["authorization"],
    ],
    ids=lambda header: header[:12],
)
async def test_a_token_that_proves_nothing_is_not_made_good_by_a_cookie(
    valkey: EmbeddedValkey, tmp_path: Path, header: str
) -> None:
    async with serving(valkey, tmp_path, BOTH) as browser:
        await browser.log_in("ann")
        for sent in ([header], [header, "Basic YTpi"], ["Basic YTpi", header]):
            headers = [("authorization", value) for value in sent]
            answer = await browser.post("/admin", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "set-cookie" not in answer.headers
        # The control: with the cookie alone, and with what is no token, she is let in.
        assert (await browser.post("/admin")).status_code == 200
        basic = {"authorization": "Basic YTpi"}  # what a proxy asks for
        assert (await browser.post("/admin", headers=basic)).status_code == 200


async def test_a_token_and_a_cookie_never_mix(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async with serving(valkey, tmp_path, BOTH) as browser:
        await browser.log_in("ann")
        answer = await browser.get("/who", headers=token("bob", "editors"))
        assert answer.json() == ["bob", ["editor"], "token"]
        assert (await browser.post("/admin", headers=token("bob"))).status_code == 403
        # Who comes with a token needs none against forgery; who comes with a cookie does.
        del browser.headers["x-csrf-token"]
        assert (await browser.post("/admin", headers=token("bob", "admins"))).status_code == 200
        assert (await browser.post("/admin")).status_code == 403


async def test_nobody_is_let_in_while_nobody_can_tell(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async with serving(valkey, tmp_path, BOTH) as browser:
        await browser.log_in("ann")

        app: Any = browser._transport.app  # type: ignore[attr-defined]

        async def away(connection: HTTPConnection) -> Identity | None:
            raise TimeoutError

        app.state.identities.by_session(away, get_session)
        answer = await browser.post("/admin")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def numbers(*dependencies: Any, **options: Any) -> Feature:
    """A feature with one cached route, which counts how often it is computed."""

    def feature(cache: Cache) -> APIRouter:
        router, computed = APIRouter(), iter(range(100))

        @router.get("/numbers", dependencies=[Depends(each) for each in dependencies])
        @cache.policy("numbers", int, ttl=60).http(**options)
        async def read() -> int:
            return next(computed)

        return router

    return feature


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"public": True}, "is public and depends on who asks"),
        (
            {"vary_by": get_user},
            r"depends on who asks, and its vary_by= does not: use vary_by=get_identity.*get_roles",
        ),
    ],
    ids=["public", "by something else"],
)
async def test_a_cached_route_that_would_leak_does_not_start(
    valkey: EmbeddedValkey, tmp_path: Path, options: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(UnsafeRoute, match=f"/numbers {remedy}"):
        await start(make(valkey, tmp_path, SESSIONS, numbers(require_admin, **options)))
    # The control: nothing is wrong with the route itself.
    async with serving(valkey, tmp_path, SESSIONS, numbers(**options)) as browser:
        await browser.log_in("bob")
        assert (await browser.get("/numbers")).status_code == 200


async def start(app: FastAPI) -> None:
    """Start an application as a server does. Raises what keeps it from starting."""

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None: ...

    await app({"type": "lifespan", "state": {}}, receive, send)


async def test_without_the_checks_others_are_told_to_keep_it(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: proxies would answer anybody with what is for admins."""
    monkeypatch.setattr(checks, "_check_public", lambda *_: None)
    monkeypatch.setattr(identity, "PERSONALIZED_BY", "nothing looks here")
    feature = numbers(require_admin, public=True)
    async with serving(valkey, tmp_path, TOKENS, feature) as browser:
        leaked = await browser.get("/numbers", headers=token("ann", "admins"))
        assert "public" in leaked.headers["cache-control"]


async def test_who_has_the_same_roles_shares_an_entry(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    feature = numbers(require_admin, vary_by=get_roles)
    async with serving(valkey, tmp_path, BOTH, feature) as browser:

        async def ask(subject: str, *groups: str) -> tuple[int, Any]:
            answer = await browser.get("/numbers", headers=token(subject, *groups))
            assert "public" not in answer.headers.get("cache-control", "")
            return answer.status_code, answer.json() if answer.status_code == 200 else None

        assert await ask("ann", "admins") == (200, 0)
        assert await ask("amy", "admins") == (200, 0)
        assert await ask("eve", "admins", "editors") == (200, 1)
        assert await ask("bob", "editors") == (403, None)
        assert (await browser.get("/numbers")).status_code == 401
        await browser.log_in("ann")
        assert (await browser.get("/numbers")).json() == 0
        ROLES["ann"].clear()
        assert (await browser.get("/numbers")).status_code == 403


@pytest.mark.parametrize("vary_by", [get_identity, require_admin], ids=["identity", "role"])
async def test_everybody_has_an_entry_of_their_own(
    valkey: EmbeddedValkey, tmp_path: Path, vary_by: Any
) -> None:
    feature = numbers(require_admin, vary_by=vary_by)
    async with serving(valkey, tmp_path, BOTH, feature) as browser:
        await browser.log_in("ann")
        asked = [{}, token("ann", "admins"), token("amy", "admins"), {}, token("ann", "admins")]
        answers = [(await browser.get("/numbers", headers=headers)).json() for headers in asked]
    # The ann of a token may be somebody else than the ann of a session.
    assert answers == [0, 1, 2, 0, 1]


async def test_what_also_depends_on_the_session_is_not_kept_for_others(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    ROLES["amy"] = {"admin"}
    for dependencies, expected in [((get_session, require_admin), [0, 1]), ((), [0, 0])]:
        feature = numbers(*dependencies, vary_by=get_roles)
        async with serving(valkey, tmp_path, SESSIONS, feature) as browser:
            answers = []
            for user in ("ann", "amy"):
                await browser.log_in(user)
                answers.append((await browser.get("/numbers")).json())
        assert answers == expected


@pytest.mark.parametrize("ways", [SESSIONS, TOKENS, BOTH], ids=str)
async def test_the_document_shows_the_ways_to_prove_it(
    valkey: EmbeddedValkey, tmp_path: Path, ways: tuple[str, ...]
) -> None:
    async with serving(valkey, tmp_path, ways) as browser:
        document = (await browser.get("/openapi.json")).json()
    names = {"sessions": "session", "tokens": "HTTPBearer"}
    shown = {names[way] for way in ways}
    for path, method in (("/who", "get"), ("/admin", "post")):
        operation = document["paths"][path][method]
        assert [set(need) for need in operation["security"]] == [{name} for name in sorted(shown)]
        assert {"401", "403"} <= operation["responses"].keys()
    schemes = document["components"]["securitySchemes"]
    assert shown <= schemes.keys()
    assert "identity" not in schemes


@pytest.mark.parametrize("names", [(), ("",), ("Admin",), ("admin", "two words")], ids=str)
def test_a_role_that_nobody_can_have_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="in lower case, digits and hyphens"):
        RequireRole(*names)
