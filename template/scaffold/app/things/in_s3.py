"""Things in S3.

Each one is an object, and replaced only if it is still what was read.
"""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from app.database.bucket import Bucket, Conflict
from scaffold.app.things.models import Thing, ThingCreate, ThingPage, ThingUpdate
from scaffold.app.things.repository import ThingRepository, VersionConflict

_PREFIX = "things/"
_SUFFIX = ".json"


class S3ThingRepository(ThingRepository):
    """See `repository.py` for what each method promises."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, thing_id: UUID) -> Thing | None:
        async with self._bucket.deadline():
            found = await self._bucket.get(_key(thing_id))
        return None if found is None else Thing.model_validate_json(found.body)

    async def page(self, after: UUID | None, limit: int) -> ThingPage:
        # Keys are listed in the order of the ids. What is deleted before it is read is missing.
        async with self._bucket.deadline():
            start = None if after is None else _key(after)
            keys = await self._bucket.keys(_PREFIX, after=start, limit=limit + 1)
            found = await self._bucket.get_many(keys[:limit])
        things = [Thing.model_validate_json(each.body) for each in found if each is not None]
        more = len(keys) > limit
        return ThingPage(things=things, next_cursor=_id(keys[limit - 1]) if more else None)

    async def create(self, new: ThingCreate) -> Thing:
        now = datetime.now(UTC)
        thing = Thing(id=uuid4(), name=new.name, version=1, created_at=now, updated_at=now)
        async with self._bucket.deadline():
            await self._bucket.create(_key(thing.id), thing.model_dump_json().encode())
        return thing

    async def update(self, thing_id: UUID, change: ThingUpdate) -> Thing | None:
        async with self._bucket.deadline():
            found = await self._bucket.get(_key(thing_id))
            if found is None:
                return None
            old = Thing.model_validate_json(found.body)
            if old.version != change.version:
                raise VersionConflict
            values = {"name": change.name, "version": old.version + 1}
            new = old.model_copy(update={**values, "updated_at": datetime.now(UTC)})
            body = new.model_dump_json().encode()
            try:
                await self._bucket.replace(_key(thing_id), body, etag=found.etag)
            except Conflict:
                raise VersionConflict from None
        return new

    async def delete(self, thing_id: UUID) -> bool:
        """Of several that delete it at the same time, more than one may be told so."""
        async with self._bucket.deadline():
            was_there = await self._bucket.exists(_key(thing_id))
            await self._bucket.delete(_key(thing_id))
        return was_there


def _key(thing_id: UUID) -> str:
    return f"{_PREFIX}{thing_id}{_SUFFIX}"


def _id(key: str) -> UUID:
    return UUID(key.removeprefix(_PREFIX).removesuffix(_SUFFIX))
