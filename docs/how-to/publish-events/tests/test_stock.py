"""Whoever subscribes hears of a change."""

from app.core.service import Service
from app.stock.install import install_stock
from devservers.waiting import until
from tests.conftest import Serve


async def test_a_change_is_heard_of(serve: Serve) -> None:
    told: list[list[str]] = []

    def install(service: Service) -> None:
        told.append(install_stock(service, publisher=service.name))

    async with serve(install) as client:
        await client.put("/stock/lamp")
        await until(lambda: told == [["lamp"]])
