"""A service with sessions, and browsers that talk to it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import JsonValue
from redis.exceptions import RedisError

from app.core.redis import ClientOptions, RedisClient, create_client, is_transient
from app.core.sessions import SessionDependency, SessionMiddleware, Sessions, UserDependency
from devservers.waiting import PATIENCE

KEYS = [
    "a3ZpZG9zZ2hlaWxrbmFzZGZnaG9pcXdlcjEyMzQ1Njc4OTA",
    "bTlxd2Vyem14Y3ZiYXNkZmdoamtscG9pdXk5ODc2NTQzMjE",
    "Y3l4Y3ZibmFzZHJxd2V0enVpb3AxMnF3ZTQ1cnQ2N3V6aTg",
]
NAME = "__Host-session"


@dataclass
class Gate:
    """Holds requests up in the middle."""

    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self) -> None:
        self.waiting.set()
        await self.opened.wait()


def application(sessions: Sessions) -> FastAPI:
    app = FastAPI()
    app.state.gate = Gate()

    @app.get("/who")
    async def who(session: SessionDependency) -> dict[str, JsonValue]:
        return {"user": session.user, "data": session.data, "token": session.csrf_token}

    @app.get("/private")
    async def private(user: UserDependency) -> str:
        return user

    @app.get("/nothing")
    async def nothing() -> str:
        return "nothing to do with sessions"

    @app.post("/login/{user}")
    async def log_in(user: str, session: SessionDependency) -> str:
        session.log_in(user)
        return session.csrf_token

    @app.post("/logout")
    async def log_out(session: SessionDependency) -> None:
        session.log_out()

    @app.post("/logout-slowly")
    async def log_out_slowly(session: SessionDependency, request: Request) -> None:
        await request.app.state.gate.pass_through()
        session.log_out()

    @app.post("/logout-everywhere")
    async def log_out_everywhere(session: SessionDependency, keep: bool = False) -> str:
        await session.log_out_everywhere(keep_this=keep)
        if keep:
            session.rotate()
        return session.csrf_token

    @app.post("/rotate")
    async def rotate(session: SessionDependency) -> str:
        session.rotate()
        return session.csrf_token

    @app.put("/data")
    async def put(
        session: SessionDependency, data: Annotated[dict[str, JsonValue], Body()]
    ) -> None:
        session.data.update(data)

    @app.put("/slowly")
    async def put_slowly(
        session: SessionDependency,
        data: Annotated[dict[str, JsonValue], Body()],
        request: Request,
        rotate: bool = False,
    ) -> None:
        await request.app.state.gate.pass_through()
        session.data.update(data)
        if rotate:
            session.rotate()

    @app.put("/data/{status}")
    async def put_and_fail(
        session: SessionDependency, status: int, data: Annotated[dict[str, JsonValue], Body()]
    ) -> None:
        session.data.update(data)
        raise HTTPException(status)

    @app.put("/now")
    async def put_now(
        session: SessionDependency, data: Annotated[dict[str, JsonValue], Body()]
    ) -> str:
        session.data.update(data)
        await session.save()
        raise HTTPException(500)

    @app.get("/stream")
    async def stream(session: SessionDependency) -> StreamingResponse:
        session.data["streamed"] = True
        return StreamingResponse(iter(["a", "b"]))

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        if not is_transient(error):
            raise error
        return JSONResponse({"detail": "try again"}, 503)

    app.add_exception_handler(RedisError, unavailable)
    app.add_middleware(SessionMiddleware, sessions=sessions, unavailable=unavailable)
    return app


class Browser(httpx2.AsyncClient):
    """Keeps its cookies, and sends the token that it was last told."""

    def __init__(self, app: Callable[..., Any], base_url: str = "https://service") -> None:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        super().__init__(transport=transport, base_url=base_url)

    @property
    def session_id(self) -> str | None:
        return self.cookies.get(NAME)

    @session_id.setter
    def session_id(self, value: str) -> None:
        self.cookies = httpx2.Cookies()
        # The name that the standard library's cookie jar gives to a host without a dot.
        self.cookies.set(NAME, value, domain="service.local")

    async def log_in(self, user: str) -> None:
        answer = await self.post(f"/login/{user}")
        assert answer.status_code == 200, answer.text
        self.remember(answer.json())

    def remember(self, token: str) -> None:
        self.headers["x-csrf-token"] = token

    async def who(self) -> dict[str, Any]:
        answer = await self.get("/who")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        self.remember(found["token"])
        return found

    async def user(self) -> str | None:
        user: str | None = (await self.who())["user"]
        return user


def make_sessions(client: RedisClient, **options: Any) -> Sessions:
    return Sessions(client, **{"prefix": "test:session", "keys": KEYS[:1], **options})


@asynccontextmanager
async def open_sessions(url: str, **options: Any) -> AsyncIterator[Sessions]:
    patient = ClientOptions(
        name="test", timeout=PATIENCE, connect_timeout=PATIENCE, pool_timeout=PATIENCE
    )
    client = create_client(url, patient)
    try:
        yield make_sessions(client, **options)
    finally:
        await client.aclose()
