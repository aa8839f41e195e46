"""Browsers of people who have accounts."""

from collections.abc import Callable
from uuid import uuid4

import httpx2

from tests.conftest import Client

PASSWORD = "correct horse battery"


class Browser(httpx2.AsyncClient):
    """Talks to the application over TLS, keeps its cookies, and sends the token it was told."""

    def __init__(self, client: Client, address: str = "192.0.2.1") -> None:
        transport = httpx2.ASGITransport(
            client.app, raise_app_exceptions=False, client=(address, 50_000)
        )
        super().__init__(transport=transport, base_url="https://service")

    async def log_in(self, name: str, password: str = PASSWORD) -> httpx2.Response:
        answer = await self.post("/accounts/login", json={"name": name, "password": password})
        self.remember(answer)
        return answer

    async def name(self) -> str | None:
        """Who the service takes it for."""
        answer = await self.get("/accounts/me")
        assert answer.status_code in (200, 401), answer.text
        return str(answer.json()["account"]["name"]) if answer.status_code == 200 else None

    def remember(self, answer: httpx2.Response) -> None:
        if answer.status_code == 200:
            self.headers["x-csrf-token"] = answer.json()["csrf_token"]


MakeBrowser = Callable[..., Browser]


async def register(client: httpx2.AsyncClient) -> str:
    name = f"user-{uuid4().hex[:12]}"
    answer = await client.post("/accounts", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == name
    return name
