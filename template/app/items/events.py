"""What other services may want to know of items."""

from uuid import UUID

from app.core.events import Event, Events
from app.items.changes import Change, Listener


class ItemCreated(Event, name="item.created"):
    item_id: UUID


class ItemUpdated(Event, name="item.updated"):
    item_id: UUID


class ItemDeleted(Event, name="item.deleted"):
    item_id: UUID


_EVENTS: dict[Change, type[ItemCreated | ItemUpdated | ItemDeleted]] = {
    Change.CREATED: ItemCreated,
    Change.UPDATED: ItemUpdated,
    Change.DELETED: ItemDeleted,
}


def publish_item(events: Events) -> Listener:
    """Publishes every change. An outage of Redis is no reason to refuse one."""

    async def publish(item_id: UUID, change: Change) -> None:
        await events.publish(_EVENTS[change](item_id=item_id))

    return publish
