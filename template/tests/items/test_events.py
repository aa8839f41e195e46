"""Every change of an item is told to other services, and no change fails because of that."""

from uuid import UUID

import pytest

from app.core.cache import CacheUnavailable
from app.core.events import Event, Events, EventsUnavailable
from app.items.events import ItemCreated, ItemDeleted, ItemUpdated
from app.main import create_app
from app.settings import Settings
from devservers.server import free_port
from devservers.waiting import until
from tests.conftest import Client, Serve
from tests.items.test_items import create


async def test_changes_are_published_in_order(settings: Settings) -> None:
    """This process subscribes to itself."""
    app = create_app(settings)
    events: Events = app.state.events
    told: list[Event] = []
    for event_type in (ItemCreated, ItemUpdated, ItemDeleted):

        @events.on(settings.service_name, event_type)
        async def take(event: Event) -> None:
            told.append(event)

    async with app.router.lifespan_context(app), Client(app) as client:
        item = await create(client)
        path = f"/items/{item['id']}"
        change = {"name": "new", "version": item["version"]}
        assert (await client.put(path, json=change)).status_code == 200
        assert (await client.put(path, json=change)).status_code == 409  # and that is no change
        assert (await client.delete(path)).status_code == 204
        await until(lambda: len(told) == 3, what="the events")
    item_id = UUID(str(item["id"]))
    assert told == [
        ItemCreated(item_id=item_id),
        ItemUpdated(item_id=item_id),
        ItemDeleted(item_id=item_id),
    ]


@pytest.mark.parametrize("error", [EventsUnavailable("x"), CacheUnavailable("x", outage=True)])
async def test_an_event_waits_for_the_parts_that_its_handler_needs(
    settings: Settings, error: Exception
) -> None:
    """More often than a handler that is wrong is tried."""
    app = create_app(settings)
    events: Events = app.state.events
    tries: list[Event] = []

    @events.on(settings.service_name, ItemCreated)
    async def take(event: Event) -> None:
        tries.append(event)
        if len(tries) < 5:
            raise error

    async with app.router.lifespan_context(app), Client(app) as client:
        await create(client)
        await until(lambda: len(tries) == 5, what="the fifth try")


async def test_without_redis_changes_are_made_all_the_same(serve: Serve) -> None:
    async with serve(redis_url=f"redis://127.0.0.1:{free_port()}/0") as client:
        for _ in range(3):
            await create(client)
        ready = await client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["checks"]["events"]["status"] != "ok"
