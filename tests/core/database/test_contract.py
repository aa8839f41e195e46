"""What every database promises, whichever was chosen: asked through the port, on real servers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.cache.keys import canonical
from app.core.serializers.json import JsonSerializer
from app.core.serializers.msgpack import MsgpackSerializer
from app.database import DatabaseUnavailable
from app.database.bucket import Bucket
from app.database.engine import Database
from app.items.errors import ItemNotFound, VersionConflict
from app.items.models import MAX_QUANTITY, Item, ItemCreate, ItemPage, ItemUpdate
from app.items.repository import ItemRepository
from devservers.waiting import HANG, until
from tests.core.database.backends import Backend
from tests.support.turns import no_longer_than

PATIENCE = 1.0
"""Seconds that a caller waits, where it is away."""
LAST_VERSION = 2**31 - 1


@pytest.fixture
async def items(backend: Backend) -> AsyncIterator[ItemRepository]:
    async with backend.open() as (_, items):
        yield items


async def read_all(items: ItemRepository, limit: int = 3) -> list[UUID]:
    found: list[UUID] = []
    after: UUID | None = None
    while True:
        page = await items.page(after, limit)
        assert len(page.items) <= limit
        found += [item.id for item in page.items]
        if page.next_cursor is None:
            return found
        after = UUID(page.next_cursor)


@pytest.mark.parametrize(
    "serializer", [JsonSerializer(), MsgpackSerializer()], ids=["json", "msgpack"]
)
async def test_what_it_returns_can_be_cached(
    items: ItemRepository, serializer: JsonSerializer | MsgpackSerializer
) -> None:
    """A driver may have types of its own, such as asyncpg's UUID."""
    item = await items.create(ItemCreate(name="lamp"))
    page = await items.page(None, 3)
    names = {item.id: item.name}
    values: list[tuple[Any, Any]] = [(Item, item), (ItemPage, page), (dict[UUID, str], names)]
    for type_, value in values:
        codec = serializer.codec(type_)
        assert codec.loads(codec.dumps(value, key=b"key"), key=b"key") == value
    assert canonical(item.id) == canonical(UUID(str(item.id)))


async def test_names_and_the_stock_are_those_of_the_items(items: ItemRepository) -> None:
    before = await items.stock()
    lamp = await items.create(ItemCreate(name="lamp", quantity=3))
    shade = await items.create(ItemCreate(name="shade", quantity=4))
    assert await items.names([lamp.id, uuid4(), shade.id]) == {lamp.id: "lamp", shade.id: "shade"}
    assert await items.names([]) == {}
    after = await items.stock()
    assert (after.items - before.items, after.quantity - before.quantity) == (2, 7)


async def test_an_item_reads_as_it_was_written(items: ItemRepository) -> None:
    before = datetime.now(UTC)
    item = await items.create(ItemCreate(name="lamp", quantity=3))
    assert (item.name, item.quantity, item.version) == ("lamp", 3, 1)
    assert before <= item.created_at <= before + timedelta(minutes=1)
    assert await items.get(item.id) == item

    changed = await items.update(item.id, ItemUpdate(name="lantern", version=1))
    assert (changed.name, changed.quantity, changed.version) == ("lantern", 3, 2)
    assert changed.updated_at > changed.created_at == item.created_at
    assert await items.get(item.id) == changed

    assert await items.delete(item.id)
    assert await items.get(item.id) is None
    assert not await items.delete(item.id)


async def test_what_is_not_there_is_not_found(items: ItemRepository) -> None:
    nowhere = uuid4()
    assert await items.get(nowhere) is None
    assert not await items.delete(nowhere)
    with pytest.raises(ItemNotFound):
        await items.update(nowhere, ItemUpdate(name="x", version=1))
    with pytest.raises(ItemNotFound):
        await items.claim(nowhere, fence=1)
    with pytest.raises(ItemNotFound):
        await items.set_quantity(nowhere, 1, fence=1)


async def test_limits_and_names_in_any_script_are_kept(items: ItemRepository) -> None:
    names = ("Ünïcödé 🛋️", "'; DROP TABLE items; --", "نور", "${X} {{ x }} %s", "\\", "🎉" * 200)
    for name in names:
        item = await items.create(ItemCreate(name=name, quantity=MAX_QUANTITY))
        assert await items.get(item.id) == item
        assert item.name == name


async def test_a_change_based_on_an_old_version_is_refused(items: ItemRepository) -> None:
    item = await items.create(ItemCreate(name="lamp"))
    await items.update(item.id, ItemUpdate(name="first", version=1))
    for version in (1, 3, LAST_VERSION):
        with pytest.raises(VersionConflict) as refused:
            await items.update(item.id, ItemUpdate(name="second", version=version))
        assert refused.value.current == 2
    current = await items.get(item.id)
    assert current is not None
    assert current.name == "first"


async def test_of_writers_at_once_one_wins_each_version(items: ItemRepository) -> None:
    item = await items.create(ItemCreate(name="lamp"))

    async def change(name: str) -> bool:
        try:
            await items.update(item.id, ItemUpdate(name=name, version=1))
        except VersionConflict:
            return False
        return True

    won = await asyncio.gather(*(change(str(number)) for number in range(8)))
    assert sum(won) == 1
    current = await items.get(item.id)
    assert current is not None
    assert (current.version, current.name) == (2, str(won.index(True)))


WRITERS, WRITES = 4, 5


async def add_to_names(items: ItemRepository, item: Item, *, careful: bool) -> set[str]:
    """Several writers each add words to a name; the words that are there in the end.

    One that is not careful takes the version of the moment for the one that it has read.
    """

    async def write(writer: int) -> None:
        for number in range(WRITES):
            while True:
                seen = await items.get(item.id)
                assert seen is not None
                await asyncio.sleep(0)
                now = seen if careful else await items.get(item.id)
                assert now is not None
                change = ItemUpdate(name=f"{seen.name} {writer}.{number}", version=now.version)
                try:
                    await items.update(item.id, change)
                except VersionConflict:
                    continue
                break

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    last = await items.get(item.id)
    assert last is not None
    return set(last.name.split()) - {item.name}


async def test_writers_at_once_lose_no_update(items: ItemRepository) -> None:
    item = await items.create(ItemCreate(name="words:"))
    assert len(await add_to_names(items, item, careful=True)) == WRITERS * WRITES


async def test_control_writers_that_do_not_say_what_they_read_lose_updates(
    items: ItemRepository,
) -> None:
    for _ in range(20):  # they may be lucky, but not for long
        item = await items.create(ItemCreate(name="words:"))
        if len(await add_to_names(items, item, careful=False)) < WRITERS * WRITES:
            return
    pytest.fail("no update was ever lost")


async def test_an_earlier_holder_of_the_lock_can_neither_claim_nor_write(
    items: ItemRepository,
) -> None:
    item = await items.create(ItemCreate(name="lamp", quantity=1))
    assert await items.claim(item.id, fence=5) == item
    assert await items.claim(item.id, fence=2**62) == item
    assert await items.claim(item.id, fence=5) is None
    assert await items.set_quantity(item.id, 9, fence=5) is None
    written = await items.set_quantity(item.id, 7, fence=2**62)
    assert written is not None
    assert (written.quantity, written.version) == (7, 2)
    assert await items.get(item.id) == written


async def test_of_claims_at_once_the_latest_fence_stays(items: ItemRepository) -> None:
    item = await items.create(ItemCreate(name="lamp"))
    await asyncio.gather(*(items.claim(item.id, fence=fence) for fence in range(1, 9)))
    written = [await items.set_quantity(item.id, 1, fence=fence) for fence in range(1, 9)]
    assert [one is not None for one in written] == [False] * 7 + [True]


async def test_a_claim_and_a_change_at_once_both_count(items: ItemRepository) -> None:
    item = await items.create(ItemCreate(name="lamp"))
    claimed, changed = await asyncio.gather(
        items.claim(item.id, fence=3), items.update(item.id, ItemUpdate(name="new", version=1))
    )
    assert claimed is not None
    assert changed.name == "new"
    assert await items.set_quantity(item.id, 4, fence=3) is not None


async def test_a_deleted_item_does_not_come_back(items: ItemRepository) -> None:
    item = await items.create(ItemCreate(name="lamp"))

    async def keep_changing() -> None:
        version = 1
        while True:
            changed = await items.update(item.id, ItemUpdate(name="new", version=version))
            version = changed.version

    async def is_changed() -> bool:
        current = await items.get(item.id)
        return current is not None and current.version > 2

    changing = asyncio.create_task(keep_changing())
    await until(is_changed)
    assert await items.delete(item.id)
    with pytest.raises(ItemNotFound):
        await asyncio.wait_for(changing, HANG)
    assert await items.get(item.id) is None


async def test_pages_are_in_order_and_end(items: ItemRepository) -> None:
    made = {(await items.create(ItemCreate(name=f"{number}"))).id for number in range(7)}
    for limit in (1, 3, 100):
        seen = await read_all(items, limit)
        assert seen == sorted(seen)
        assert made <= set(seen)
    last = max(seen)
    assert (await items.page(last, 3)).items == []
    assert (await items.page(last, 3)).next_cursor is None


async def test_pages_neither_repeat_nor_skip_while_others_write(items: ItemRepository) -> None:
    lasting = {(await items.create(ItemCreate(name=f"{number}"))).id for number in range(12)}
    enough = asyncio.Event()

    async def come_and_go() -> None:
        while not enough.is_set():
            passing = await items.create(ItemCreate(name="passing"))
            await items.update(passing.id, ItemUpdate(name="still passing", version=1))
            await items.delete(passing.id)

    writers = [asyncio.create_task(come_and_go()) for _ in range(2)]
    try:
        for _ in range(3):
            seen = await read_all(items)
            assert len(seen) == len(set(seen))
            assert lasting <= set(seen)
    finally:
        enough.set()
        await asyncio.gather(*writers)


async def test_more_requests_than_connections_wait_for_their_turn(backend: Backend) -> None:
    async with backend.open(pool_size=2) as (_, items):
        made = await asyncio.gather(*(items.create(ItemCreate(name="x")) for _ in range(20)))
        read = await asyncio.gather(*(items.get(item.id) for item in made))
        assert read == made


async def test_a_cancelled_request_leaves_the_pool_whole(backend: Backend) -> None:
    async with backend.open(pool_size=2) as (database, items):
        item = await items.create(ItemCreate(name="lamp"))
        for number in range(12):
            request = asyncio.create_task(items.page(None, 100))
            await asyncio.sleep(number / 2000)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        read = await asyncio.gather(*(items.get(item.id) for _ in range(8)))
        assert read == [item] * 8
        await database.ping()


async def test_closing_it_leaves_nothing_running(backend: Backend) -> None:
    tasks = asyncio.all_tasks()
    async with backend.open() as (_, items):
        item = await items.create(ItemCreate(name="lamp"))
        under_way = asyncio.create_task(items.get(item.id))
        assert await under_way == item
    assert asyncio.all_tasks() <= tasks


async def fails_in_time(database: Database | Bucket, items: ItemRepository) -> None:
    for attempt in (
        database.ping,
        partial(items.get, uuid4()),
        partial(items.page, None, 3),
        partial(items.create, ItemCreate(name="lamp")),
    ):
        async with no_longer_than(2 * PATIENCE):  # for a connection, and for an answer
            with pytest.raises(DatabaseUnavailable):
                await attempt()


async def recovers(items: ItemRepository) -> None:
    """By itself, and for good: as often as there are connections, one after the other."""
    in_a_row = 0

    async def answers() -> bool:
        nonlocal in_a_row
        try:  # a busy machine may take longer than `PATIENCE` now and then
            item = await items.create(ItemCreate(name="lamp"))
            assert await items.get(item.id) == item
        except DatabaseUnavailable:
            in_a_row = 0
        else:
            in_a_row += 1
        return in_a_row == 6

    await until(answers, what="its recovery")


async def test_killed_it_says_so_at_once_and_recovers_by_itself(backend: Backend) -> None:
    if backend.server is None:
        pytest.skip("a file cannot be killed; see test_sqlite.py for one that is locked")
    async with backend.open(timeout=PATIENCE) as (database, items):
        await recovers(items)
        backend.server.kill()
        try:
            await fails_in_time(database, items)
        finally:
            backend.server.restart()
            await backend.make_tables()
        await recovers(items)


@pytest.mark.slow
async def test_frozen_nobody_hangs_and_thawed_it_recovers(backend: Backend) -> None:
    if backend.server is None:
        pytest.skip("a file cannot be frozen; see test_sqlite.py for one that is locked")
    async with backend.open(timeout=PATIENCE, pool_timeout=PATIENCE) as (database, items):
        await recovers(items)
        backend.server.freeze()
        try:
            await asyncio.gather(*(fails_in_time(database, items) for _ in range(6)))
        finally:
            backend.server.thaw()
        await recovers(items)


async def test_never_there_the_service_can_start(backend: Backend) -> None:
    if backend.server is None:
        pytest.skip("a file is always there")
    async with backend.open(url=backend.nowhere, timeout=PATIENCE) as (database, items):
        await fails_in_time(database, items)


async def test_a_wrong_password_is_an_outage_and_keeps_its_secret(backend: Backend) -> None:
    if backend.kind in ("sqlite", "s3-moto"):
        pytest.skip("it asks for none")
    login = backend.url.partition("://")[2].partition("@")[0]
    wrong = backend.url.replace(login, f"{login.partition(':')[0]}:hunter2")
    async with backend.open(url=wrong) as (database, _):
        with pytest.raises(DatabaseUnavailable) as refused:
            await database.ping()
        assert "hunter2" not in str(refused.value)
