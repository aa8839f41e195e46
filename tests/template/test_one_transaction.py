"""The recipe for one transaction over two features: an order and its stock, both or neither.

The code of `docs/how-to/one-transaction` runs in a generated service. Fifty clients order at once,
and send again what they got no answer to; meanwhile the process is killed and started anew.

The control once lost nothing in five kills, because no order was between its two transactions. It
pauses there now, as a busy machine would.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from devservers.postgres import EmbeddedPostgres
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from scripts.running import free_port, service_environment
from tests.template.answers import ROOT
from tests.template.conftest import Render
from tests.template.edits import replace
from tests.template.recipes import Recipe, lay_in

PAGE = ROOT / "template/docs/how-to/one-transaction.md"
TOGETHER = """
            if not await self._stock.take(session, product_id, quantity):
                raise OutOfStock
"""
APART = """
        async with self._database.writing() as session:
            if not await self._stock.take(session, product_id, quantity):
                raise OutOfStock
        await asyncio.sleep(0.05)
        async with self._database.writing() as session:
"""
CLIENTS, ORDERS, QUANTITY, STOCK = 50, 6, 3, 700  # 900 are wanted
PATIENCE = {
    "DATABASE_TIMEOUT": "30", "DATABASE_POOL_TIMEOUT": "30", "REDIS_TIMEOUT": "10",
    "REDIS_POOL_TIMEOUT": "10", "CACHE_READ_TIMEOUT": "5",
}  # fmt: skip


@dataclass
class Shop:
    """A service that can be killed, and what its clients were told."""

    folder: Path
    variables: dict[str, str]
    port: int = field(default_factory=free_port)
    placed: set[UUID] = field(default_factory=set)
    refused: set[UUID] = field(default_factory=set)

    def alembic(self, *command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "alembic", *command],
            cwd=self.folder,
            env=self.variables,
            check=True,
        )

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run one process of the service, and kill it without a warning at the end."""
        command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(self.port)]
        process = subprocess.Popen(command, cwd=self.folder, env=self.variables)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    async def order_under_load(self) -> UUID:
        """Have all clients place their orders of a new product, and return its id."""
        self.placed.clear()
        self.refused.clear()
        url = f"http://127.0.0.1:{self.port}"
        limits = httpx2.Limits(max_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=url, timeout=HANG, limits=limits) as client:

            async def is_ready() -> bool:
                try:
                    return (await client.get("/health/ready")).is_success
                except httpx2.TransportError:
                    return False

            with self.serving():
                await until(is_ready)
                created = await client.post("/products", json={"stock": STOCK})
                product = UUID(created.json())
                buying = asyncio.gather(*(self._buy(client, product) for _ in range(CLIENTS)))
                await until(lambda: len(self.placed) > CLIENTS)
            with self.serving():
                await buying
                shown = await client.get(f"/products/{product}/stock")
        assert shown.json() == (await self.kept(product))[0]  # no old value in the cache
        return product

    async def _buy(self, client: httpx2.AsyncClient, product: UUID) -> None:
        for _ in range(ORDERS):
            order = uuid4()
            json = {"product_id": str(product), "quantity": QUANTITY}

            async def is_answered(order: UUID = order, json: dict[str, object] = json) -> bool:
                try:
                    await client.get(f"/products/{product}/stock")  # so that it is cached
                    answer = await client.put(f"/orders/{order}", json=json)
                except httpx2.TransportError:
                    return False  # killed, perhaps after the commit
                if answer.status_code == 503:
                    return False
                assert answer.status_code in {204, 409}, answer.text
                (self.placed if answer.status_code == 204 else self.refused).add(order)
                return True

            await until(is_answered)

    async def kept(self, product: UUID) -> tuple[int, set[UUID]]:
        """What the database has: the stock, and the orders."""
        engine = create_async_engine(self.variables["DATABASE_URL"])
        async with engine.connect() as connection:
            of = {"id": product if engine.dialect.name == "postgresql" else product.hex}
            stock = await connection.scalar(text("SELECT stock FROM products WHERE id = :id"), of)
            orders = await connection.scalars(
                text("SELECT id FROM orders WHERE product_id = :id"), of
            )
            found = {UUID(str(order)) for order in orders}
        await engine.dispose()
        return int(stock), found


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, service: Render, tmp_path: Path) -> Iterator[Shop]:
    folder = service(database=request.param, lock_strategy="none")
    lay_in(Recipe(PAGE), folder)
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedValkey())
        if request.param == "sqlite":
            database_url = f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
        else:
            database_url = stack.enter_context(EmbeddedPostgres()).url
        servers = {"REDIS_URL": redis.url, "DATABASE_URL": database_url}
        shop = Shop(folder, service_environment() | PATIENCE | servers)
        shop.alembic("upgrade", "heads")
        shop.alembic("revision", "--autogenerate", "-m", "orders")
        shop.alembic("upgrade", "heads")
        yield shop


@pytest.mark.slow
async def test_an_order_and_its_stock_are_both_written_or_neither(shop: Shop) -> None:
    product = await shop.order_under_load()
    stock, orders = await shop.kept(product)
    assert orders == shop.placed
    assert len(orders) == STOCK // QUANTITY
    assert not orders & shop.refused
    assert stock == STOCK - QUANTITY * len(orders)


@pytest.mark.slow
async def test_control_two_transactions_lose_stock(shop: Shop) -> None:
    orders_py = shop.folder / "app/orders/orders.py"
    replace(orders_py, TOGETHER, APART)
    replace(orders_py, "from typing", "import asyncio\nfrom typing")
    for _ in range(5):  # it depends on when the process dies
        product = await shop.order_under_load()
        stock, orders = await shop.kept(product)
        if stock != STOCK - QUANTITY * len(orders):
            return
    pytest.fail("stock was never lost")
