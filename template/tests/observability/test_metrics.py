import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from app.core.observability.metrics import create_metrics_router
from app.core.observability.requests import RequestMiddleware


async def scrape(accept: str = "") -> httpx2.Response:
    app = FastAPI()
    app.include_router(create_metrics_router())
    transport = httpx2.ASGITransport(RequestMiddleware(app))
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:
        await http.get("/nowhere")
        return await http.get("/metrics", headers={"accept": accept})


async def test_metrics_are_those_of_the_service_and_its_process() -> None:
    response = await scrape()
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert {"http_requests", "http_request_duration_seconds", "python_info"} <= names
    if sys.platform == "linux":
        assert "process_resident_memory_bytes" in names


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0"])
async def test_a_scraper_may_ask_for_openmetrics(accept: str) -> None:
    response = await scrape(accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_metrics_are_not_part_of_the_api() -> None:
    app = FastAPI()
    app.include_router(create_metrics_router())
    assert app.openapi()["paths"] == {}


def test_processes_that_share_a_port_add_up(tmp_path: Path) -> None:
    program = """if True:
        import asyncio
        from tests.observability.test_metrics import scrape
        print(asyncio.run(scrape()).text)
    """
    for expected in ("1.0", "3.0"):  # one 404 each, and in the second run the first /metrics
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        counts = [
            line.rpartition(" ")[2]
            for line in done.stdout.splitlines()
            if line.startswith("http_requests_total")
        ]
        assert str(float(sum(map(float, counts)))) == expected, done.stdout


def run(program: str, folder: Path | None) -> str:
    """What a process of its own prints; `folder` is what it shares with others."""
    shared = {} if folder is None else {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **shared},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_gauge_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    """A breaker that a killed process has left open would be an alert for good."""
    dies = """if True:
        import os, signal
        from app.core.cache import metrics
        from prometheus_client import Gauge
        metrics.breaker_open.set(1)
        metrics.queued_invalidations.set(7)
        Gauge("own", "Of a feature, one series for each process.").set(1)
        metrics.invalidations.labels("queued").inc()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run(dies, tmp_path)
    looks = """if True:
        import asyncio
        from app.core.cache import metrics
        from tests.observability.test_metrics import scrape
        print(asyncio.run(scrape()).text)
    """
    lines = run(looks, tmp_path).splitlines()
    assert "cache_breaker_open 0.0" in lines
    assert "cache_queued_invalidations 0.0" in lines
    assert not [line for line in lines if line.startswith("own")]
    assert 'cache_invalidations_total{outcome="queued"} 1.0' in lines, "what was counted stays"


def test_gauges_of_processes_that_live_are_added_up(tmp_path: Path) -> None:
    program = """if True:
        import asyncio
        from app.core.cache import metrics
        from tests.observability.test_metrics import run, scrape
        from pathlib import Path
        metrics.queued_invalidations.set(3)
        print(run({inner!r}, Path({folder!r})))
    """
    inner = """if True:
        import asyncio
        from app.core.cache import metrics
        from tests.observability.test_metrics import scrape
        metrics.queued_invalidations.set(4)
        print(asyncio.run(scrape()).text)
    """
    told = run(program.format(inner=inner, folder=str(tmp_path)), tmp_path)
    assert "cache_queued_invalidations 7.0" in told.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("twin", "shared", "told"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_processes_side_by_side_that_share_no_folder_are_told(
    tmp_path: Path, twin: bool, shared: bool, told: bool
) -> None:
    program = f"""if True:
        import os, sys, time
        from app.core.observability.metrics import warn_of_scattered_metrics
        twin = os.fork() if {twin} else None  # the parent is what gunicorn is
        if twin == 0:
            time.sleep(60)
        elif (worker := os.fork()) == 0:
            warn_of_scattered_metrics()
            sys.stdout.flush()
            os._exit(0)
        else:
            os.waitpid(worker, 0)
            if twin is not None:
                os.kill(twin, 9)
    """
    assert ("metrics.scattered" in run(program, tmp_path if shared else None)) is told


async def test_what_rarely_happens_has_a_series_from_the_start() -> None:
    program = """if True:
        from fastapi import FastAPI
        from app.core.cache import metrics as cache
        from app.core.observability.requests import expect_routes
        from prometheus_client import REGISTRY, generate_latest
        app = FastAPI()
        app.add_api_route("/rare/{name}", lambda name: name)
        expect_routes(app.routes)
        cache.expect_policy("rare")
        print(generate_latest(REGISTRY).decode())
    """
    lines = run(program, None).splitlines()
    for status in ("500", "503"):
        series = f'http_requests_total{{method="GET",route="/rare/{{name}}",status="{status}"}} 0.0'
        assert series in lines
    assert 'cache_loads_total{outcome="timeout",policy="rare"} 0.0' in lines
    assert 'cache_invalidations_total{outcome="queued"} 0.0' in lines


async def test_no_series_says_when_another_one_was_created() -> None:
    assert "_created" not in (await scrape()).text
