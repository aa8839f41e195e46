"""It reads the other database, and serves without it."""

from functools import partial
from pathlib import Path

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from app.warehouse.install import install_warehouse
from app.warehouse.table import PalletRow, WarehouseBase
from tests.conftest import Serve


async def test_it_reads_the_other_database(serve: Serve, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'warehouse.db'}"
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(WarehouseBase.metadata.create_all)
        await connection.execute(insert(PalletRow).values(place="A1"))
    await engine.dispose()
    async with serve(partial(install_warehouse, url=url)) as client:
        assert (await client.get("/pallets/count")).json() == 1
        assert "warehouse" in (await client.get("/health/ready")).json()["checks"]


async def test_without_it_the_rest_is_served(serve: Serve) -> None:
    nowhere = "sqlite+aiosqlite:////nowhere/warehouse.db"
    async with serve(partial(install_warehouse, url=nowhere)) as client:
        assert (await client.get("/pallets/count")).status_code == 503
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.get("/items")).status_code == 200
