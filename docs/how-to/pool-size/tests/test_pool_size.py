"""Who gets no connection in time is told so."""

import asyncio

from fastapi import APIRouter

from app.core.service import Service
from app.database.engine import Database
from tests.conftest import Serve


def install_slow(service: Service) -> None:
    database = service.find(Database)
    router = APIRouter()
    holding = asyncio.Semaphore(0)
    done = asyncio.Event()

    @router.get("/holding")
    async def hold() -> None:
        async with database.reading():
            holding.release()
            await done.wait()

    @router.get("/asking")
    async def ask() -> None:
        for _ in range(2):
            await holding.acquire()
        try:
            async with database.reading():
                pass
        finally:
            done.set()

    service.include(router)


async def test_who_gets_no_connection_in_time_is_told_so(serve: Serve) -> None:
    async with serve(install_slow, database_pool_size=2, database_pool_timeout=0.1) as client:
        paths = ("/holding", "/holding", "/asking")
        answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert "retry-after" in answers[-1].headers
