"""Items in S3: each one an object, replaced only if it is still what was read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from random import uniform
from uuid import UUID, uuid4

from pydantic import BaseModel

from app.database import DatabaseUnavailable
from app.database.bucket import Bucket, Conflict
from app.items.errors import ItemNotFound, VersionConflict
from app.items.models import Item, ItemCreate, ItemPage, ItemUpdate, Stock
from app.items.repository import ItemRepository

_PREFIX = "items/"
_SUFFIX = ".json"
# Writes that fail before we give up, and seconds that bound the first pause between two.
_ATTEMPTS = 6
_PAUSE = 0.01


class _Record(BaseModel):
    """What an object holds."""

    item: Item
    fence: int = 0
    """The fence of the last holder of the item's lock that claimed it."""


class S3ItemRepository(ItemRepository):
    """See `repository.py` for what each method promises."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, item_id: UUID) -> Item | None:
        async with self._bucket.deadline():
            found = await self._bucket.get(_key(item_id))
        return None if found is None else _Record.model_validate_json(found.body).item

    async def page(self, after: UUID | None, limit: int) -> ItemPage:
        # Keys are listed in their order, which is that of the ids. An item that is deleted before
        # it is read is missing from the page, and the cursor still is that of the last key.
        async with self._bucket.deadline():
            keys = await self._bucket.keys(
                _PREFIX, after=None if after is None else _key(after), limit=limit + 1
            )
            found = await self._bucket.get_many(keys[:limit])
        items = [_Record.model_validate_json(each.body).item for each in found if each is not None]
        return ItemPage(
            items=items, next_cursor=_id(keys[limit - 1]) if len(keys) > limit else None
        )

    async def names(self, item_ids: Sequence[UUID]) -> dict[UUID, str]:
        async with self._bucket.deadline():
            found = await self._bucket.get_many(map(_key, item_ids))
        items = [_Record.model_validate_json(each.body).item for each in found if each is not None]
        return {item.id: item.name for item in items}

    async def stock(self) -> Stock:
        """Reads every item: a bucket cannot count. The deadline is for each page."""
        counted, after = Stock(items=0, quantity=0), None
        while True:
            page = await self.page(after, 100)
            counted.items += len(page.items)
            counted.quantity += sum(item.quantity for item in page.items)
            if page.next_cursor is None:
                return counted
            after = UUID(page.next_cursor)

    async def create(self, new: ItemCreate) -> Item:
        now = datetime.now(UTC)
        item = Item(
            id=uuid4(),
            name=new.name,
            quantity=new.quantity,
            version=1,
            created_at=now,
            updated_at=now,
        )
        async with self._bucket.deadline():
            await self._bucket.create(_key(item.id), _body(_Record(item=item)))
        return item

    async def update(self, item_id: UUID, change: ItemUpdate) -> Item:
        def renamed(record: _Record) -> _Record:
            if record.item.version != change.version:
                raise VersionConflict(record.item.version)
            return _changed(record, name=change.name)

        return (await self._replace(item_id, renamed)).item

    async def claim(self, item_id: UUID, *, fence: int) -> Item | None:
        def claimed(record: _Record) -> _Record:
            return record.model_copy(update={"fence": max(fence, record.fence)})

        record = await self._replace(item_id, claimed)
        return record.item if record.fence == fence else None

    async def set_quantity(self, item_id: UUID, quantity: int, *, fence: int) -> Item | None:
        def restocked(record: _Record) -> _Record:
            return _changed(record, quantity=quantity) if record.fence == fence else record

        record = await self._replace(item_id, restocked)
        return record.item if record.fence == fence else None

    async def delete(self, item_id: UUID) -> bool:
        """Of several that delete an item at the same time, more than one may be told so."""
        key, failures = _key(item_id), _Failures()
        was_there = False
        async with self._bucket.deadline():
            while await self._bucket.exists(key):
                was_there = True
                async with failures.tolerated():
                    await self._bucket.delete(key)
                    break
        return was_there

    async def _replace(self, item_id: UUID, change: Callable[[_Record], _Record]) -> _Record:
        """Write what `change` makes of a record, from the start if somebody else was faster."""
        key, failures = _key(item_id), _Failures()
        new: _Record | None = None
        async with self._bucket.deadline():
            while True:
                found = await self._bucket.get(key)
                if found is None:
                    raise ItemNotFound
                old = _Record.model_validate_json(found.body)
                if old == new:  # it was written, though the answer said otherwise
                    return old
                new = change(old)
                if new == old:
                    return old
                with suppress(Conflict):
                    async with failures.tolerated():
                        await self._bucket.replace(key, _body(new), etag=found.etag)
                        return new


class _Failures:
    """The failed writes of one change.

    Some servers fail where two write at once. Whether this one has written, and whether it is there
    at all, the next read tells.
    """

    def __init__(self) -> None:
        self._count = 0

    @asynccontextmanager
    async def tolerated(self) -> AsyncIterator[None]:
        """Passes over a write that fails, after a pause; raises what the last attempt does."""
        try:
            yield
        except DatabaseUnavailable:
            self._count += 1
            if self._count == _ATTEMPTS:
                raise
            await asyncio.sleep(uniform(0, _PAUSE * 2**self._count))


def _changed(record: _Record, **values: str | int) -> _Record:
    values["version"] = record.item.version + 1
    item = record.item.model_copy(update={**values, "updated_at": datetime.now(UTC)})
    return record.model_copy(update={"item": item})


def _body(record: _Record) -> bytes:
    return record.model_dump_json().encode()


def _key(item_id: UUID) -> str:
    return f"{_PREFIX}{item_id}{_SUFFIX}"


def _id(key: str) -> str:
    return key.removeprefix(_PREFIX).removesuffix(_SUFFIX)
