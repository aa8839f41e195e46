"""`/docs` and `/redoc`: FastAPI's pages, with all that they load.

FastAPI has browsers load Swagger UI and ReDoc from a host on the internet, which has to be there
and to be trusted with the page. Here they come from the package `fastapi-offline`, of which nothing
else is used. Addresses are relative, so that the pages work under any prefix.
"""

import re
from base64 import b64encode
from hashlib import sha256

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_ASSETS = "docs/assets"
_PACKAGE = ("fastapi_offline", "static")

# What both need; neither can do without styles in elements.
_POLICY = (
    "default-src 'none'; connect-src 'self'; font-src 'self' data:; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; script-src 'self'"
)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def api_docs_routes(app: FastAPI) -> list[BaseRoute]:
    """Return the routes of the pages on an application that has an OpenAPI document."""
    document = (app.openapi_url or "").removeprefix("/")
    swagger = get_swagger_ui_html(
        openapi_url=document,
        title=app.title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
        init_oauth=app.swagger_ui_init_oauth,
        swagger_ui_parameters=app.swagger_ui_parameters,
    )
    redoc = get_redoc_html(
        openapi_url=document,
        title=app.title,
        redoc_js_url=f"{_ASSETS}/redoc.standalone.js",
        redoc_favicon_url=f"{_ASSETS}/favicon.png",
        with_google_fonts=False,
    )
    return [
        Mount(f"/{_ASSETS}", StaticFiles(packages=[_PACKAGE])),
        _route("/docs", swagger),
        _route("/redoc", redoc),
    ]


def _route(path: str, page: HTMLResponse) -> Route:
    headers = {"content-security-policy": _policy(bytes(page.body).decode())}

    async def show(request: Request) -> Response:
        return HTMLResponse(page.body, headers=headers)

    return Route(path, show, include_in_schema=False)


def _policy(page: str) -> str:
    """Return a policy that allows the scripts of a page, by their hashes, and no others."""
    digests = [sha256(script.encode()).digest() for script in _SCRIPT.findall(page)]
    return " ".join([_POLICY, *(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)])
