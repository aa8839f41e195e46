"""A service put together from parts: what is opened, closed, answered and counted."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Request
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from app.core.cache import Cache
from app.core.redis import ClientOptions, UnsuitableServer
from app.core.serializers.json import JsonSerializer
from app.core.service import Layer, Service
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


def make(url: str, **options: Any) -> Service:
    """A service without parts, whose clients have four connections each."""
    redis_options = ClientOptions(
        name="orders", pool_size=4, timeout=10, pool_timeout=10, connect_timeout=10
    )
    return Service("orders", redis_url=url, redis_options=redis_options, **options)


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[httpx2.AsyncClient]:
    app = service.app()
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


def add_route(service: Service, path: str, route: Callable[..., Awaitable[object]]) -> None:
    router = APIRouter()
    router.add_api_route(path, route, response_model=None)
    service.include(router)


class Diary:
    """Resources of both kinds that write down when they are opened and closed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @asynccontextmanager
    async def resource(self, name: str, *, fails: bool = False) -> AsyncIterator[None]:
        self.lines.append(f"open {name}")
        if fails:
            raise RuntimeError(name)
        yield
        self.lines.append(f"close {name}")

    @contextmanager
    def plain(self, name: str) -> Iterator[None]:
        self.lines.append(f"open {name}")
        yield
        self.lines.append(f"close {name}")


async def test_parts_are_opened_in_order_and_closed_in_reverse(valkey: EmbeddedValkey) -> None:
    service, diary = make(valkey.url), Diary()
    service.open(diary.resource("database"))
    service.open(diary.resource("handlers"), last=True)
    service.open(diary.plain("passwords"))
    assert diary.lines == []
    async with service.running():
        diary.lines.append("work")
    names = ["database", "passwords", "handlers"]
    opened, closed = [f"open {n}" for n in names], [f"close {n}" for n in reversed(names)]
    assert diary.lines == [*opened, "work", *closed]


async def names_of_connections(url: str) -> list[str]:
    async with Redis.from_url(url, decode_responses=True) as redis:
        return [client["name"] for client in await redis.client_list() if client["name"]]


async def test_a_start_that_fails_half_way_closes_what_was_open(valkey: EmbeddedValkey) -> None:
    service, diary = make(valkey.url), Diary()

    @asynccontextmanager
    async def uses_redis() -> AsyncIterator[None]:
        await redis.ping()
        assert "orders:commands" in await names_of_connections(valkey.url)
        try:
            yield
        finally:
            await redis.ping()  # clients are closed last
            diary.lines.append("close")

    service.open(uses_redis())
    redis = service.redis("commands")
    service.open(diary.resource("broken", fails=True))
    with pytest.raises(RuntimeError, match="broken"):
        async with service.running():
            pass
    assert diary.lines == ["open broken", "close"]

    async def none_is_open() -> bool:
        return "orders:commands" not in await names_of_connections(valkey.url)

    await until(none_is_open, what="the end of the connections")


async def test_a_worker_uses_the_same_parts_without_http(valkey: EmbeddedValkey) -> None:
    service = make(valkey.url)
    cache = Cache(
        service.redis("cache"), service="orders", serializer=JsonSerializer(), read_timeout=10
    )
    service.open(cache)
    service.share(cache=cache)

    async def load() -> int:
        return 7

    async with service.running() as running:
        policy = running.find(Cache).policy("number", int, ttl=60)
        assert await policy.get_or_load("seven", load) == 7


def test_a_part_is_found_by_its_class_if_there_is_one() -> None:
    service = make("redis://127.0.0.1:1")
    diary = Diary()
    service.share(diary=diary, count=1)
    assert service.find(Diary) is diary
    with pytest.raises(LookupError, match="0 parts of Cache"):
        service.find(Cache)
    service.share(other=Diary())
    with pytest.raises(LookupError, match="2 parts of Diary"):
        service.find(Diary)


async def test_parts_are_where_dependencies_look_for_them(valkey: EmbeddedValkey) -> None:
    service = make(valkey.url)
    service.share(answer=42)

    async def read(request: Request) -> object:
        return request.app.state.answer

    add_route(service, "/answer", read)
    async with serving(service) as client:
        assert (await client.get("/answer")).json() == 42


async def start(service: Service) -> list[dict[str, Any]]:
    """What the start says of servers."""
    with capture_logs() as said:
        async with service.running():
            pass
    return [dict(line) for line in said if line["event"].startswith("redis.")]


async def test_connections_are_added_up_for_each_server(valkey: EmbeddedValkey) -> None:
    with EmbeddedValkey() as other:
        service = make(valkey.url, processes=3)
        service.redis("commands")
        service.redis("cache", pool_size=2)
        service.redis("jobs", url=f"{valkey.url.rpartition('/')[0]}/5")  # another database there
        service.redis("locks", url=other.url, pool_size=5)
        said = await start(service)
    ready = {line["address"]: line["connections_at_most"] for line in said}
    assert len(ready) == 2
    assert sorted(ready.values()) == [15, 30]


async def test_too_many_connections_are_told() -> None:
    with EmbeddedValkey(maxclients="50") as server:
        for pool_size, is_told in ((60, True), (5, False)):
            service = make(server.url, production=True)
            service.redis("commands", pool_size=pool_size)
            told = [line["why"] for line in await start(service) if "why" in line]
            assert any("maxclients" in why for why in told) is is_told


@pytest.mark.parametrize("keeps", ["cache", "locks", "sessions"])
@pytest.mark.parametrize("production", [True, False])
async def test_production_keeps_no_state_where_it_may_be_evicted(
    keeps: Any, production: bool
) -> None:
    with EmbeddedValkey(maxmemory="64mb", maxmemory_policy="allkeys-lru") as evicting:
        service = make(evicting.url, production=production)
        service.redis("commands")
        service.redis(keeps, keeps=[keeps])
        if production and keeps != "cache":
            with pytest.raises(UnsuitableServer, match=f"may evict {keeps}"):
                await start(service)
        else:
            assert "redis.ready" in [line["event"] for line in await start(service)]


async def test_it_starts_without_redis() -> None:
    service = make(f"redis://127.0.0.1:{free_port()}/0", production=True)
    service.redis("commands")
    assert [line["event"] for line in await start(service)] == ["redis.unavailable"]


async def test_each_purpose_has_its_login_and_name(valkey: EmbeddedValkey) -> None:
    asked = []

    def login(url: str, purpose: str) -> str:
        asked.append(purpose)
        return url

    service = make(valkey.url, redis_login=login)
    clients = [service.redis(purpose) for purpose in ("cache", "events")]
    async with service.running():
        for client in clients:
            await client.ping()
        names = await names_of_connections(valkey.url)
    assert asked == ["cache", "events"]
    assert {"orders:cache", "orders:events"} <= set(names)


class Away(Exception):
    pass


async def test_transient_errors_are_503_and_others_mistakes(valkey: EmbeddedValkey) -> None:
    service = make(valkey.url)
    service.transient(Away)
    errors: dict[str, Exception] = {
        "away": Away("on purpose"),
        "slow": TimeoutError(),
        "busy": ResponseError("BUSY a script"),
        "group": ExceptionGroup("both", [ResponseError("OOM command"), RedisConnectionError()]),
        "denied": ResponseError("NOPERM no permissions"),
        "mixed": ExceptionGroup("one", [ResponseError("OOM command"), ValueError()]),
        "mistake": ValueError("on purpose"),
    }

    async def fail(kind: str) -> None:
        raise errors[kind]

    add_route(service, "/fail/{kind}", fail)
    async with serving(service) as client:
        answers = {kind: await client.get(f"/fail/{kind}") for kind in errors}
    statuses = {kind: answer.status_code for kind, answer in answers.items()}
    away = dict.fromkeys(["away", "slow", "busy", "group"], 503)
    assert statuses == away | dict.fromkeys(["denied", "mixed", "mistake"], 500)
    assert {answers[kind].headers["retry-after"] for kind in away} == {"1"}


async def test_refusals_may_have_a_handler_of_their_own(valkey: EmbeddedValkey) -> None:
    service = make(valkey.url)

    async def denied(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "no"}, 403)

    async def fail(code: str) -> None:
        raise ResponseError(f"{code} on purpose")

    service.answer_refusals(denied)
    add_route(service, "/fail/{code}", fail)
    async with serving(service) as client:
        assert (await client.get("/fail/NOPERM")).status_code == 403
        assert (await client.get("/fail/LOADING")).status_code == 503


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_what_is_worth_another_try() -> None:
    service = make("redis://127.0.0.1:1")
    service.transient(Away, judge=lambda error: isinstance(error, KeyError))
    assert service.is_transient(Away())
    assert service.is_transient(KeyError())
    assert service.is_transient(ResponseError("READONLY it is a replica"))
    assert service.is_transient(caused(Away(), ResponseError("BUSY a script")))
    assert not service.is_transient(caused(Away(), ResponseError("NOPERM no permissions")))
    assert not service.is_transient(TimeoutError())  # of whatever the handler has asked
    assert not service.is_transient(ValueError())


class Marking:
    """A middleware that adds its name to those that a request has passed."""

    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self._app, self._name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            passed.append(self._name)
        await self._app(scope, receive, send)


passed: list[str] = []


async def test_middleware_stands_where_its_layer_is(valkey: EmbeddedValkey) -> None:
    service = make(valkey.url)
    cache = Cache(
        service.redis("cache"), service="layers", serializer=JsonSerializer(), read_timeout=10
    )
    service.open(cache)
    # In no order: their layers decide, and within one the first is the outermost.
    for name, layer in (
        ("inside", Layer.INSIDE_CACHE),
        ("outside", Layer.OUTSIDE_CACHE),
        ("requests", Layer.REQUESTS),
        ("outside, too", Layer.OUTSIDE_CACHE),
    ):
        service.middleware(Marking, layer=layer, name=name)
    router = APIRouter()

    @router.get("/cached")
    @cache.policy("answer", int, ttl=60).http(public=True)
    async def cached() -> int:
        return 1

    service.include(router)
    async with serving(service) as client:
        passed.clear()
        await client.get("/cached")
        assert passed == ["requests", "outside", "outside, too", "inside"]

        async def is_hit() -> bool:
            passed.clear()
            return "hit" in (await client.get("/cached")).headers["cache-status"]

        await until(is_hit, what="a hit")
        assert passed == ["requests", "outside", "outside, too"]


async def test_the_health_page_shows_each_check(valkey: EmbeddedValkey) -> None:
    service = make(valkey.url)

    async def well() -> None: ...

    async def ill() -> None:
        raise RuntimeError("on purpose")

    service.check("first", well, critical=True)
    service.check("second", ill)
    async with serving(service) as client:
        answer = await client.get("/health/ready")
    assert answer.status_code == 200
    checks = answer.json()["checks"]
    assert {name: check["status"] for name, check in checks.items()} == {
        "first": "ok",
        "second": "degraded",
    }


async def test_only_serving_freezes_the_garbage_collector(valkey: EmbeddedValkey) -> None:
    """A command or a test does not own its process."""
    thresholds = gc.get_threshold()
    gc.unfreeze()
    try:
        async with make(valkey.url).running():
            assert gc.get_freeze_count() == 0
        async with serving(make(valkey.url)):
            assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def test_the_start_does_not_wait_for_what_runs_after_it(valkey: EmbeddedValkey) -> None:
    """Work that never ends, and work that fails, disturb nobody; the end cancels what runs."""
    service, diary = make(valkey.url), Diary()

    async def never_ends() -> None:
        diary.lines.append("work")
        try:
            await asyncio.Event().wait()
        finally:
            diary.lines.append("end of work")

    async def fails() -> None:
        raise OSError("the source is down")

    service.open(diary.resource("part"))
    service.after_start("endless", never_ends)
    service.after_start("failing", fails)
    with capture_logs() as logs:
        async with serving(service) as client:
            assert (await client.get("/health/ready")).status_code == 200
            await until(lambda: [line for line in logs if line.get("work") == "failing"])
    assert [line["event"] for line in logs if "work" in line] == ["service.background_work_failed"]
    assert diary.lines == ["open part", "work", "end of work", "close part"]


async def test_without_http_nothing_runs_after_the_start(valkey: EmbeddedValkey) -> None:
    service, begun = make(valkey.url), list[bool]()

    async def work() -> None:
        begun.append(True)

    service.after_start("work", work)
    async with service.running():
        await asyncio.sleep(0)
    assert begun == []
