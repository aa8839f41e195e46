"""The critical section: nothing is lost, and a sleeper cannot overwrite what is newer."""

import asyncio
import os
import signal
import sys
from uuid import UUID

import httpx2
import pytest

from app.core.locks import LockLost, LocksDependency
from app.items.models import MAX_QUANTITY, Item
from app.items.repository import ItemRepository
from app.settings import Settings
from devservers.server import free_port
from devservers.waiting import HANG, until
from tests.conftest import Client, Serve
from tests.items.test_items import create

TTL = 2.0

# Another replica: it gets the lock, is then stopped for longer than the ttl, and writes.
SLEEPER = """
import asyncio, sys
from uuid import UUID
from app.core.locks import LockTimeout
from app.main import create_app

async def acquire(locks, name, ttl):
    while True:  # on a busy machine a quorum may be late
        try:
            if lease := await locks.try_acquire(name, ttl=ttl):
                return lease
        except LockTimeout:
            pass

async def main(item_id, ttl, again):
    app = create_app()
    async with app.router.lifespan_context(app):
        lease = await acquire(app.state.locks, f"item:{item_id}", ttl)
        await app.state.items.claim(item_id, fence=lease.fence)
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if again:
            await app.state.items.claim(item_id, fence=2**62)
        fence = 2**62 if again else lease.fence
        written = await app.state.items.set_quantity(item_id, 3, fence=fence)
        print("refused" if written is None else "written", flush=True)

asyncio.run(main(UUID(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "again"))
"""


async def test_of_many_restocks_at_once_none_is_lost(client: httpx2.AsyncClient) -> None:
    item = await create(client, quantity=1)
    path = f"/items/{item['id']}"

    async def restock() -> None:
        """As a client does it: again when the item is busy."""

        async def accepted() -> bool:
            response = await client.post(f"{path}/restock", json={"amount": 2})
            assert response.status_code in (200, 409, 503)
            return response.status_code == 200

        await until(accepted, what="a turn")

    await asyncio.gather(*(restock() for _ in range(8)))
    assert (await client.get(path)).json()["quantity"] == 1 + 8 * 2


async def test_restocking_what_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    nowhere = f"/items/{UUID(int=0)}/restock"
    assert (await client.post(nowhere, json={"amount": 1})).status_code == 404


@pytest.mark.parametrize("amount", [0, 2**20, 2**31, 2**70, True, "1"])
async def test_a_wrong_amount_is_refused(client: httpx2.AsyncClient, amount: object) -> None:
    path = f"/items/{(await create(client))['id']}/restock"
    assert (await client.post(path, json={"amount": amount})).status_code == 422


async def test_more_than_there_is_room_for_changes_nothing(client: httpx2.AsyncClient) -> None:
    item = await create(client, quantity=MAX_QUANTITY)
    path = f"/items/{item['id']}"
    assert (await client.post(f"{path}/restock", json={"amount": 1})).status_code == 409
    assert (await client.get(path)).json()["quantity"] == MAX_QUANTITY


async def test_without_its_lock_servers_it_says_so(serve: Serve) -> None:
    nowhere = [f"redis://127.0.0.1:{free_port()}/0" for _ in range(3)]
    urls = {"redis_url": nowhere[0], "redlock_urls": ",".join(nowhere)}
    async with serve(**urls, lock_redis_timeout=0.2) as client:
        item = await create(client)
        response = await client.post(f"/items/{item['id']}/restock", json={"amount": 1})
    assert response.status_code == 503
    assert "retry-after" in response.headers


async def test_a_lock_that_is_lost_after_the_write_leaves_no_old_item_in_the_cache(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    items: ItemRepository = client.app.state.items
    write = items.set_quantity

    async def write_and_lose(item_id: UUID, quantity: int, *, fence: int) -> Item | None:
        await write(item_id, quantity, fence=fence)
        raise LockLost("name", "gone")

    monkeypatch.setattr(items, "set_quantity", write_and_lose)
    path = f"/items/{(await create(client, quantity=1))['id']}"
    assert (await client.get(path)).json()["quantity"] == 1
    assert (await client.post(f"{path}/restock", json={"amount": 2})).status_code == 503
    assert (await client.get(path)).json()["quantity"] == 3


async def test_a_lock_within_itself_is_a_mistake_and_no_outage(client: Client) -> None:
    async def nested(locks: LocksDependency) -> None:
        async with locks.hold("name"), locks.hold("name"):
            pass

    client.app.add_api_route("/nested", nested)
    assert (await client.get("/nested")).status_code == 500


@pytest.mark.parametrize(
    ("claims", "outcome", "quantity"),
    [
        pytest.param("once", "refused", 7, id="with its fence"),
        pytest.param("again", "written", 3, id="control: with a fence that it made up"),
    ],
)
async def test_a_holder_that_slept_through_its_ttl_cannot_overwrite(
    client: Client,
    settings: Settings,
    servers: dict[str, str],
    claims: str,
    outcome: str,
    quantity: int,
) -> None:
    items: ItemRepository = client.app.state.items
    item_id = UUID(str((await create(client, quantity=1))["id"]))
    sleeper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SLEEPER, str(item_id), str(TTL), claims),
        env={**os.environ, **servers, "SERVICE_NAME": settings.service_name, "LOG_LEVEL": "ERROR"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert sleeper.stdin is not None
    assert sleeper.stdout is not None
    try:
        assert await sleeper.stdout.readline() == b"held\n"
        sleeper.send_signal(signal.SIGSTOP)
        async with client.app.state.locks.hold(f"item:{item_id}", ttl=30, timeout=HANG) as lease:
            assert await items.claim(item_id, fence=lease.fence) is not None
            assert await items.set_quantity(item_id, 7, fence=lease.fence) is not None
        sleeper.send_signal(signal.SIGCONT)
        sleeper.stdin.write(b"\n")
        assert await sleeper.stdout.readline() == f"{outcome}\n".encode()
        current = await items.get(item_id)
        assert current is not None
        assert current.quantity == quantity
    finally:
        sleeper.send_signal(signal.SIGCONT)
        sleeper.kill()
        await sleeper.wait()
