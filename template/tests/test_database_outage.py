"""Without its database the service starts, says so, and hangs nowhere."""

import re
from uuid import uuid4

import pytest

from tests.conftest import Serve


def nowhere(url: str) -> str:
    """The same address, where nobody listens."""
    if url.startswith("sqlite"):
        return re.sub("///.*", "////nowhere/app.db", url)
    return re.sub(r":\d+(?=/|$)", ":1", url)


@pytest.fixture
def no_database(servers: dict[str, str]) -> dict[str, object]:
    """The settings of a service whose database is not there."""
    return {
        name.lower(): nowhere(value)
        for name, value in servers.items()
        if not name.startswith("RED")
    }


async def test_requests_are_told_to_come_back(serve: Serve, no_database: dict[str, object]) -> None:
    async with serve(**no_database) as client:
        for response in (
            await client.get("/items"),
            await client.get(f"/items/{uuid4()}"),
            await client.post("/items", json={"name": "lamp"}),
            await client.put(f"/items/{uuid4()}", json={"name": "lamp", "version": 1}),
            await client.delete(f"/items/{uuid4()}"),
        ):
            assert response.status_code == 503, response.text
            assert "retry-after" in response.headers
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"]["status"] == "failed"
