"""Without its database the service starts, says so, and hangs nowhere."""

from fastapi import APIRouter, Request

from app.core.service import Service
from tests.conftest import Serve


def install_question(service: Service) -> None:
    """Install a route that asks the database."""
    router = APIRouter()

    @router.get("/test-question")
    async def ask(request: Request) -> None:
        await request.app.state.database.ping()

    service.include(router)


async def test_requests_are_told_to_come_back(serve: Serve, no_database: dict[str, object]) -> None:
    async with serve(install_question, **no_database) as client:
        answer = await client.get("/test-question")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"]["status"] == "failed"
