"""A replica is asked where reads may be behind, and seen on the health page."""

from fastapi import APIRouter

from app.core.read_scope import may_lag
from app.core.service import Service
from app.database.replica import ReplicatedDatabase
from app.settings import Settings
from tests.conftest import Serve, nowhere


def install_lag(service: Service) -> None:
    router = APIRouter()

    @router.api_route("/lag", methods=["GET", "POST"])
    async def lag() -> bool:
        return may_lag()

    service.include(router)


async def test_requests_that_only_ask_may_be_answered_by_it(
    serve: Serve, settings: Settings
) -> None:
    async with serve(install_lag, database_read_url=settings.database_url) as client:
        assert isinstance(client.app.state.database, ReplicatedDatabase)
        assert (await client.get("/lag")).json() is True
        assert (await client.post("/lag")).json() is False
        health = (await client.get("/health/ready")).json()
        assert health["checks"]["database_replica"]["status"] == "ok"


async def test_without_it_the_service_is_ready_all_the_same(
    serve: Serve, settings: Settings
) -> None:
    url = nowhere(settings.database_url.get_secret_value())
    async with serve(install_lag, database_read_url=url) as client:
        answer = await client.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json()["checks"]["database_replica"]["status"] == "degraded"
        assert (await client.get("/items")).status_code == 200


async def test_unset_there_is_none(serve: Serve) -> None:
    async with serve(install_lag) as client:
        assert not isinstance(client.app.state.database, ReplicatedDatabase)
        assert (await client.get("/lag")).json() is False
        assert "database_replica" not in (await client.get("/health/ready")).json()["checks"]
