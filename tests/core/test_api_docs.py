"""The pages of the API's documentation load nothing from elsewhere, and run nothing else."""

import re
from base64 import b64encode
from hashlib import sha256
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from app.core.application import Application
from tests.core.cache.http.serving import asking

LOADED = re.compile(r'(?:src|href|spec-url)="([^"]+)"|url: \'([^\']+)\'')
KINDS = {".js": "text/javascript", ".css": "text/css", ".png": "image/png", ".json": "application"}


def application(prefix: str = "", kind: type[FastAPI] = Application) -> FastAPI:
    app = kind(title="orders")
    app.root_path = prefix

    @app.get("/{path:path}")  # of the service's own, which would answer everything
    async def catch_all(path: str) -> None: ...

    return app


def loaded_by(page: httpx2.Response) -> list[str]:
    """The addresses of what a page loads."""
    found = ["".join(pair) for pair in LOADED.findall(page.text)]
    return [urljoin(str(page.url), address) for address in found]


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_loads_only_what_the_service_has(path: str, prefix: str) -> None:
    async with asking(application(prefix)) as client:
        page = await client.get(f"{prefix}{path}")
        assert page.status_code == 200
        addresses = loaded_by(page)
        assert len(addresses) >= 3
        for address in addresses:
            assert urlsplit(address).netloc == "service"
            answer = await client.get(address)
            assert answer.status_code == 200, address
            kind = KINDS[address[address.rindex(".") :]]
            assert answer.headers["content-type"].startswith(kind)
        assert f"http://service{prefix}/openapi.json" in addresses


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_policy_knows_every_script(path: str) -> None:
    async with asking(application()) as client:
        page = await client.get(path)
    policy = page.headers["content-security-policy"]
    for script in re.findall(r"<script[^>]*>(.*?)</script>", page.text, re.DOTALL):
        digest = b64encode(sha256(script.encode()).digest()).decode()
        assert not script.strip() or f"'sha256-{digest}'" in policy
    scripts = policy.partition("script-src ")[2]
    assert "unsafe" not in scripts
    assert "http" not in policy


async def test_without_a_document_there_are_no_pages() -> None:
    async with asking(Application(openapi_url=None)) as client:
        for path in ("/docs", "/redoc", "/docs/assets/swagger-ui.css", "/openapi.json"):
            assert (await client.get(path)).status_code == 404


async def test_the_control_loads_from_elsewhere() -> None:
    async with asking(application(kind=FastAPI)) as client:
        hosts = {urlsplit(address).netloc for address in loaded_by(await client.get("/docs"))}
    assert hosts > {"service"}
