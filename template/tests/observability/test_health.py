import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

import httpx2
import pytest
from fastapi import FastAPI

from app.core.observability.health import Check, Health, create_health_router
from devservers.waiting import HANG
from tests.observability.conftest import Lines

Probe = Callable[[], Awaitable[object]]


async def works() -> None: ...


async def refuses() -> None:
    raise ConnectionError("user:password@host refused")


async def hangs() -> None:
    await asyncio.Event().wait()


def client(health: Health) -> httpx2.AsyncClient:
    app = FastAPI()
    app.include_router(create_health_router(health))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service")


@pytest.mark.parametrize(
    ("database", "redis", "code", "status", "checks"),
    [
        (works, works, 200, "ok", ("ok", "ok")),
        (works, refuses, 200, "degraded", ("ok", "degraded")),
        (refuses, works, 503, "failed", ("failed", "ok")),
        (refuses, refuses, 503, "failed", ("failed", "degraded")),
        (hangs, works, 503, "failed", ("failed", "ok")),
        (works, hangs, 200, "degraded", ("ok", "degraded")),
    ],
)
async def test_what_is_critical_decides(
    database: Probe, redis: Probe, code: int, status: str, checks: tuple[str, str]
) -> None:
    health = Health(
        Check("database", database, critical=True, timeout=0.05),
        Check("redis", redis, critical=False, timeout=0.05),
    )
    async with client(health) as http:
        response = await http.get("/health/ready")
    body = response.json()
    assert response.status_code == code
    assert body["status"] == status
    assert (body["checks"]["database"]["status"], body["checks"]["redis"]["status"]) == checks


async def test_the_kind_of_an_error_is_shown_and_its_message_is_not(lines: Lines) -> None:
    async with client(Health(Check("database", refuses, critical=True))) as http:
        response = await http.get("/health/ready")
    assert response.json()["checks"]["database"]["error"] == "ConnectionError"
    assert "password" not in response.text
    assert "ConnectionError" in lines()[0]["reason"]


async def test_live_asks_nothing() -> None:
    async with client(Health(Check("database", hangs, critical=True))) as http:
        response = await asyncio.wait_for(http.get("/health/live"), HANG)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_checks_run_together_and_end_in_time() -> None:
    running = most = 0

    async def counted() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await hangs()

    health = Health(*(Check(str(i), counted, critical=False, timeout=0.1) for i in range(10)))
    started = perf_counter()
    report = await asyncio.wait_for(health.report(), HANG)
    assert perf_counter() - started >= 0.1
    assert most == 10
    assert {result.error for result in report.checks.values()} == {"TimeoutError"}


async def test_a_probe_that_cannot_be_cancelled_neither_hangs_nor_piles_up() -> None:
    runs = 0
    release = asyncio.Event()

    async def stubborn() -> None:
        nonlocal runs
        runs += 1
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    health = Health(Check("database", stubborn, critical=True, timeout=0.02), keep=0)
    for _ in range(3):
        assert (await asyncio.wait_for(health.report(), HANG)).status == "failed"
    assert runs == 1
    release.set()
    await asyncio.sleep(0)
    assert (await health.report()).status == "ok"
    assert runs == 2


async def test_many_probes_cost_one_check() -> None:
    runs = 0

    async def count() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)

    health = Health(Check("database", count, critical=True), keep=0.1)
    await asyncio.gather(*(health.report() for _ in range(100)))
    assert runs == 1
    await asyncio.sleep(0.11)
    await asyncio.gather(*(health.report() for _ in range(100)))
    assert runs == 2


async def test_a_probe_of_a_client_that_goes_away_leaves_the_next_one_unharmed() -> None:
    async def takes_time() -> None:
        await asyncio.sleep(0.05)

    health = Health(Check("database", takes_time, critical=True))
    first = asyncio.create_task(health.report())
    second = asyncio.create_task(health.report())
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).status == "ok"


async def test_changes_are_logged_once(lines: Lines) -> None:
    there = False

    async def comes_and_goes() -> None:
        if not there:
            raise ConnectionError

    health = Health(Check("redis", comes_and_goes, critical=False), keep=0)
    for state in (False, False, True, True, False):
        there = state
        await health.report()
    assert [line["event"] for line in lines()] == [
        "health.check_failed",
        "health.check_recovered",
        "health.check_failed",
    ]


async def test_a_draining_service_is_live_and_not_ready() -> None:
    health = Health(Check("database", works, critical=True))
    async with client(health) as http:
        assert (await http.get("/health/ready")).status_code == 200
        health.drain()
        response = await http.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "draining")
        assert (await http.get("/health/live")).status_code == 200
