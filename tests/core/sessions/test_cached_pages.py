"""A page that the HTTP cache keeps never shows one user what is for another one."""

from typing import Annotated, Any

import pytest
from fastapi import Depends
from redis.asyncio import Redis

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.cache.http.checks import UnsafeRoute
from app.core.serializers.json import JsonSerializer
from app.core.sessions import (
    SessionDependency,
    UserDependency,
    dependency,
    get_user,
)
from tests.core.sessions.conftest import RecordAttack
from tests.core.sessions.harness import Browser, application, make_sessions


def tenant() -> str:
    return "the same for all"


async def greeting(session: SessionDependency) -> str:
    return str(session.user)


async def leak(redis: Redis, **declared: Any) -> list[str]:
    """What alice and bob see on a cached page that greets them."""
    async with Cache(redis, service="test", serializer=JsonSerializer(), read_timeout=2) as cache:
        app = application(make_sessions(redis))
        page = cache.policy("page", str, ttl=60)

        @app.get("/page")
        @page.http(ignore=["name"], **declared)
        async def show(name: Annotated[str, Depends(greeting)]) -> str:
            return f"Hello {name}"

        app.add_middleware(HttpCacheMiddleware)
        seen = []
        for user in ("alice", "bob"):
            async with Browser(app) as browser:
                await browser.log_in(user)
                for _ in range(2):
                    answer = await browser.get("/page")
                    assert answer.headers["vary"].lower().count("cookie") == 1
                    assert "public" not in answer.headers["cache-control"]
                status = answer.headers.get("cache-status", "cache; not kept")
                seen.append(f"{answer.json()}, {status.split('; ')[1]}")
        return seen


async def test_cached_page(
    redis: Redis, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    declared = await leak(redis, vary_by=get_user)
    assert declared == ["Hello alice, hit", "Hello bob, hit"]
    await redis.flushall()
    undeclared = await leak(redis, vary_by=tenant)
    assert undeclared == ["Hello alice, not kept", "Hello bob, not kept"]
    await redis.flushall()
    without.setattr(dependency, "PERSONALIZED_BY", "nothing looks here")
    assert await leak(redis, vary_by=tenant) == ["Hello alice, hit", "Hello alice, hit"]
    record_attack("cached page leaks a session", outcome="not stored", control="bob is alice")


async def test_a_public_page_with_a_session_does_not_start(redis: Redis) -> None:
    async with Cache(redis, service="test", serializer=JsonSerializer(), read_timeout=2) as cache:
        app = application(make_sessions(redis))

        @app.get("/page")
        @cache.policy("page", str, ttl=60).http(public=True)
        async def show(user: UserDependency) -> str:
            return user

        app.add_middleware(HttpCacheMiddleware)

        async def receive() -> dict[str, str]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None: ...

        with pytest.raises(UnsafeRoute, match="/page is public and depends on who asks"):
            await app({"type": "lifespan", "state": {}}, receive, send)
        with pytest.raises(TypeError, match="takes session, which is closed"):

            @cache.policy("other", str, ttl=60).http(vary_by=get_user, ignore=["session"])
            async def holds_on(session: SessionDependency) -> str:
                return ""
