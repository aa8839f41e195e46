"""One service changes an item, and the cache of another one forgets it."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, wait_until
from scripts.running import RunningService, running_service
from tests.template.conftest import Render
from tests.template.edits import OWN_FEATURES, insert_after, replace, write
from tests.template.test_profiles import run

FIRST_OWN_IMPORT = "from app.core.application import Application\n"

# What the README of a service shows, as a feature of another one.
CATALOG = '''"""Items of the service `orders`, kept for as long as they do not change there."""

import os
from uuid import UUID

import httpx2
from fastapi import APIRouter

from app.core.cache import Cache
from app.core.events import Event, Events, EventsLost


class ItemUpdated(Event, name="item.updated"):
    item_id: UUID


def create_catalog_router(cache: Cache, events: Events) -> APIRouter:
    router = APIRouter(prefix="/catalog")
    names = cache.policy("catalog", str, ttl=3600)

    @events.on("orders", ItemUpdated)
    async def forget(event: ItemUpdated) -> None:
        await cache.invalidate_tags(f"item:{event.item_id}")

    @events.on("orders", EventsLost)
    async def forget_all(event: EventsLost) -> None:
        await names.clear()

    @router.get("/{item_id}")
    @names.http(public=True, tags=lambda item_id: [f"item:{item_id}"])
    async def read(item_id: UUID) -> str:
        async with httpx2.AsyncClient(base_url=os.environ["ORDERS_URL"]) as orders:
            return str((await orders.get(f"/items/{item_id}")).json()["name"])

    return router
'''


def environment_of(folder: Path) -> Path:
    assert run(folder, "sync --quiet") == ""
    return folder


@pytest.fixture
def orders(service: Render) -> Path:
    return environment_of(service(events=True, database="sqlite"))


@pytest.fixture
def billing(render: Render, tmp_path: Path) -> Path:
    rendered = render(events=True, database="sqlite", service_name="billing")
    folder = Path(shutil.copytree(rendered, tmp_path / "billing"))
    write(folder / "app/catalog/__init__.py", "")
    write(folder / "app/catalog/routes.py", CATALOG)
    main = folder / "app/main.py"
    insert_after(
        main, OWN_FEATURES, "    app.include_router(create_catalog_router(cache, events))\n"
    )
    catalog = "from app.catalog.routes import create_catalog_router\n"
    replace(main, FIRST_OWN_IMPORT, catalog + FIRST_OWN_IMPORT)
    return environment_of(folder)


def read(service: RunningService, path: str) -> tuple[str, str]:
    """The answer, and what the cache says of it."""
    response = httpx2.get(f"{service.url}{path}", timeout=HANG)
    assert response.status_code == 200, response.text
    return response.json(), response.headers["cache-status"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_service_forgets_what_has_changed(
    orders: Path, billing: Path, tmp_path: Path
) -> None:
    with EmbeddedValkey() as valkey, ExitStack() as stack:
        shared = {"DEVSERVERS": "", "REDIS_URL": valkey.url}
        source = stack.enter_context(
            running_service(orders, tmp_path / "orders.log", variables=shared)
        )
        follower = stack.enter_context(
            running_service(
                billing, tmp_path / "billing.log", variables=shared | {"ORDERS_URL": source.url}
            )
        )
        item = httpx2.post(f"{source.url}/items", json={"name": "old"}).json()
        path = f"/catalog/{item['id']}"
        assert read(follower, path)[0] == "old"
        name, status = read(follower, path)
        assert (name, "hit" in status) == ("old", True)

        change = {"name": "new", "version": item["version"]}
        assert httpx2.put(f"{source.url}/items/{item['id']}", json=change).status_code == 200

        wait_until(lambda: read(follower, path)[0] == "new", what="the event")
