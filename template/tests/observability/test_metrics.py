import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from app.core.observability.metrics import create_metrics_router
from app.core.observability.requests import RequestMiddleware


async def scrape(accept: str = "") -> httpx.Response:
    app = FastAPI()
    app.include_router(create_metrics_router())
    transport = httpx.ASGITransport(RequestMiddleware(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
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
