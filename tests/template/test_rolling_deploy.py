"""A change of the serializer while the service runs: old and new replicas, one Redis, one database.

Two generated services run as processes of their own and are under load all the time, with updates.
First the old one serves, then both, then the new one. Nobody sees an error, or a value that is
wrong or older than what was answered before the request began.
"""

import asyncio
import random
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from copier import run_copy

from devservers.valkey import EmbeddedValkey
from scripts.running import RunningService, running_service, service_environment
from tests.core.cache.harness import until
from tests.template.answers import options
from tests.template.edits import replace, write

SERIALIZERS = [str(answer) for answer in options("serializer")]
MAIN = "app/main.py"
FEATURE = '''"""A team's own feature: it caches values, where items/ caches responses."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.core.cache import Cache
from app.core.service import Service
from app.items.caching import LISTS, item_tag
from app.items.in_sql import SqlItemRepository
from app.items.models import Item


def install_catalogue(service: Service, cache: Cache) -> None:
    items = service.find(SqlItemRepository)
    router = APIRouter(prefix="/catalogue")
    single = cache.policy("catalogue", Item, ttl=60)
    several = cache.policy("catalogue-many", Item, ttl=60)

    @router.get("/{item_id}")
    async def one(item_id: UUID) -> Item | None:
        return await single.get_or_load(
            item_id, lambda: items.get(item_id), tags=[item_tag(item_id)]
        )

    @router.get("")
    async def many(ids: Annotated[list[UUID], Query()]) -> list[Item]:
        async def load(missing: object) -> dict[UUID, Item]:
            found = [await items.get(item_id) for item_id in ids if item_id in missing]
            return {item.id: item for item in found if item}

        values = await several.get_or_load_many(ids, load, tags=[LISTS])
        return [item for item in values.values() if item]

    service.include(router)
'''
# A busy test machine may pause for longer than a service allows; a read without Redis is right but
# shows nothing here, and an invalidation that waits for Redis would be a stale value.
PATIENCE = {
    "REDIS_TIMEOUT": "10", "REDIS_POOL_TIMEOUT": "10", "CACHE_READ_TIMEOUT": "5",
    "DATABASE_TIMEOUT": "30", "DATABASE_POOL_TIMEOUT": "30",
    "CACHE_SIGNING_KEYS": "a secret of thirty-two characters",
    "DEVSERVERS": "",  # the given ones
}  # fmt: skip


Start = Callable[[ExitStack, str, EmbeddedValkey], Awaitable[RunningService]]


@pytest.fixture(scope="module")
def services(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One for each serializer, with a feature that caches values, ready to run."""
    made = {}
    for serializer in SERIALIZERS:
        folder = tmp_path_factory.mktemp(serializer) / "service"
        answers = {"database": "sqlite", "lock_strategy": "none", "serializer": serializer}
        run_copy(str(template), folder, answers, defaults=True, quiet=True)
        write(folder / "app/catalogue.py", FEATURE)
        replace(
            folder / MAIN,
            "from app.core.serializers",
            "from app.catalogue import install_catalogue\nfrom app.core.serializers",
        )
        mark = "    # This service's own features: add yours here.\n"
        added = "    install_catalogue(service, cache)\n"
        replace(folder / MAIN, mark, mark + added)
        subprocess.run(["uv", "sync", "--quiet"], cwd=folder, env=service_environment(), check=True)
        made[serializer] = folder
    return made


@pytest.fixture
def redis() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@dataclass
class Load:
    """Clients of the service: some read, one for each item updates it."""

    client: httpx2.AsyncClient
    replicas: list[str] = field(default_factory=list)
    """The URLs that requests go to, as a load balancer would know them."""
    answered: dict[str, int] = field(default_factory=dict)
    """The newest version of each item that an update was answered with."""
    reads: int = 0
    updates: int = 0
    under_way: dict[str, int] = field(default_factory=dict)

    async def request(self, method: str, path: str, **options: object) -> httpx2.Response:
        replica = random.choice(self.replicas)
        self.under_way[replica] = self.under_way.get(replica, 0) + 1
        try:
            response = await self.client.request(method, replica + path, **options)  # type: ignore[arg-type]
        finally:
            self.under_way[replica] -= 1
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response

    async def create(self) -> None:
        item = (await self.request("POST", "/items", json={"name": "v1"})).json()
        self.answered[item["id"]] = item["version"]

    async def read(self) -> None:
        while True:
            known = dict(self.answered)
            item_id = random.choice(list(known))
            match random.randrange(3):
                case 0:
                    found = [(await self.request("GET", f"/catalogue/{item_id}")).json()]
                case 1:
                    found = [(await self.request("GET", f"/items/{item_id}")).json()]
                case _:
                    found = (
                        await self.request("GET", "/catalogue", params={"ids": list(known)})
                    ).json()
                    assert len(found) == len(known)
            for item in found:
                assert item["name"] == f"v{item['version']}", "a value that never was"
                assert item["version"] >= known[item["id"]], "older than what was answered"
            self.reads += 1

    async def update(self, item_id: str) -> None:
        while True:
            version = self.answered[item_id]
            change = {"name": f"v{version + 1}", "version": version}
            item = (await self.request("PUT", f"/items/{item_id}", json=change)).json()
            self.answered[item_id] = item["version"]
            self.updates += 1
            await asyncio.sleep(random.uniform(0, 0.2))

    async def more(self, reads: int, updates: int) -> None:
        """Wait until there were so many more."""
        reads, updates = reads + self.reads, updates + self.updates
        await until(lambda: self.reads >= reads and self.updates >= updates, seconds=120)


@asynccontextmanager
async def under_load(replica: str) -> AsyncIterator[Load]:
    """Items, and clients that read and update them; what one of them finds wrong is raised."""
    async with httpx2.AsyncClient(timeout=60) as client:
        load = Load(client, [replica])
        for _ in range(4):
            await load.create()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load.read()) for _ in range(6)]
            tasks += [group.create_task(load.update(item_id)) for item_id in load.answered]
            yield load
            for task in tasks:
                task.cancel()


async def metrics(load: Load, url: str) -> dict[str, float]:
    text = (await load.client.get(f"{url}/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^(cache_\S+) (\S+)$", text, re.M)}


def count(found: dict[str, float], name: str, label: str) -> float:
    """The sum over the policies that keep values."""
    return sum(
        value
        for key, value in found.items()
        if key.startswith(f"{name}{{") and label in key and 'policy="catalogue' in key
    )


@pytest.fixture
def start(services: dict[str, Path], tmp_path: Path) -> Start:
    """Starts a replica on the one database and a Redis."""

    async def start(stack: ExitStack, serializer: str, redis: EmbeddedValkey) -> RunningService:
        log = tmp_path / f"{serializer}-{redis.port}.log"
        url = f"sqlite+aiosqlite:///{tmp_path}/app.db"
        variables = PATIENCE | {"REDIS_URL": redis.url, "DATABASE_URL": url}
        running = running_service(services[serializer], log, variables=variables)
        return await asyncio.to_thread(stack.enter_context, running)

    return start


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("before", "after"), list(pairwise(SERIALIZERS)))
async def test_old_and_new_replicas_serve_side_by_side(
    start: Start, redis: EmbeddedValkey, before: str, after: str
) -> None:
    with ExitStack() as old_stack, ExitStack() as new_stack:
        old = await start(old_stack, before, redis)
        async with under_load(old.url) as load:
            await load.more(reads=50, updates=5)

            new = await start(new_stack, after, redis)
            load.replicas = [old.url, new.url]
            await load.more(reads=500, updates=50)
            for replica in old, new:
                found = await metrics(load, replica.url)
                assert count(found, "cache_misses_total", 'reason="serializer"') > 0
                assert count(found, "cache_reads_total", 'outcome="hit"') > 0
                assert count(found, "cache_stores_total", 'outcome="failed"') == 0
                for reason in ("corrupt", "format", "key", "schema", "signature"):
                    assert count(found, "cache_misses_total", f'reason="{reason}"') == 0

            load.replicas = [new.url]
            await until(lambda: load.under_way[old.url] == 0, seconds=60)
            await asyncio.to_thread(old_stack.close)
            await load.more(reads=50, updates=5)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_load_finds_what_is_stale(start: Start, redis: EmbeddedValkey) -> None:
    """The control: replicas that do not hear of each other's updates."""
    with ExitStack() as stack:
        one = await start(stack, SERIALIZERS[0], redis)
        other = await start(stack, SERIALIZERS[0], stack.enter_context(EmbeddedValkey()))

        async def serve_with_both() -> None:
            async with under_load(one.url) as load:
                load.replicas = [one.url, other.url]
                await load.more(reads=20_000, updates=2_000)

        with pytest.raises(ExceptionGroup) as found:
            await serve_with_both()
        assert "older than what was answered" in str(found.value.exceptions[0])
