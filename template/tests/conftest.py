"""What the tests share: real servers for the session, one application per test."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from devservers.environment import PREPARATIONS, environment
from devservers.valkey import EmbeddedValkey

os.environ["ENVIRONMENT"] = "test"

from app.main import create_app
from app.settings import Settings


class Client(httpx.AsyncClient):
    """Talks to an application in this process."""

    def __init__(self, app: FastAPI) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        super().__init__(transport=transport, base_url="http://service")
        self.app = app


class Serve(Protocol):
    """Starts the application; changed settings are given by name."""

    def __call__(self, **changes: object) -> AbstractAsyncContextManager[Client]: ...


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """Variables that name real servers, such as REDIS_URL; the database is prepared."""
    with environment() as variables:
        for command in PREPARATIONS:
            subprocess.run(command, env={**os.environ, **variables}, check=True)
        yield variables


@pytest.fixture
def settings(servers: dict[str, str]) -> Settings:
    """Settings of a service that shares its servers, and no key, with other tests."""
    return Settings.model_validate(
        {
            "environment": "test",
            "service_name": f"test-{uuid4().hex[:8]}",
            **{name.lower(): url for name, url in servers.items()},
            "cache_read_timeout": 0.5,
            "log_level": "WARNING",
        }
    )


@pytest.fixture
def serve(settings: Settings) -> Serve:
    @asynccontextmanager
    async def serve(**changes: object) -> AsyncIterator[Client]:
        app = create_app(Settings.model_validate(settings.model_dump() | changes))
        async with app.router.lifespan_context(app), Client(app) as client:
            yield client

    return serve


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    """The application, started, and a client that talks to it."""
    async with serve() as client:
        yield client


@pytest.fixture
def valkey() -> Iterator[EmbeddedValkey]:
    """A Redis of the test's own, to kill and to freeze."""
    with EmbeddedValkey() as server:
        yield server
