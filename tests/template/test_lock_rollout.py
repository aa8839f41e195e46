"""Old and new instances side by side while a changed `lock_strategy` is rolled out."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from devservers.valkey import EmbeddedValkey
from scripts.running import service_environment
from scripts.snapshot import NEWEST
from tests.template.history import start_service, update_service

# An instance of the service, which goes on by a step whenever it is sent a line. It writes its
# number as the item's quantity: with its fence, or with one that it made up.
INSTANCE = """
import asyncio, sys
from uuid import UUID
from app.core.locks import LockTimeout
from app.items.models import ItemCreate
from app.main import create_app

async def step(said):
    print(said, flush=True)
    await asyncio.to_thread(sys.stdin.readline)

async def main(item, number, fenced):
    app = create_app()
    async with app.router.lifespan_context(app):
        items = app.state.items
        if not item:
            print((await items.create(ItemCreate(name="shared", quantity=0))).id)
            return
        try:
            await step("ready")
            async with app.state.locks.hold(f"item:{item}", ttl=20, timeout=2) as lease:
                await items.claim(item, fence=lease.fence)
                await step("held")
                fence = lease.fence
                if not fenced:
                    fence = 2**62
                    await items.claim(item, fence=fence)
                written = await items.set_quantity(item, number, fence=fence)
                await step("refused" if written is None else "written")
        except LockTimeout:
            await step("timeout")
        print((await items.get(item)).quantity)

item, number, fenced = sys.argv[1:]
asyncio.run(main(item and UUID(item), int(number), fenced == "fenced"))
"""


class Instance:
    """A process of a generated service."""

    def __init__(self, folder: Path, item: str, number: int, *, fenced: bool = True) -> None:
        arguments = (item, str(number), "fenced" if fenced else "unfenced")
        self.process = subprocess.Popen(
            [sys.executable, "-c", INSTANCE, *arguments],
            cwd=folder,
            env=os.environ.copy(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def next(self) -> str:
        """Let it go on; what it says when it stops again."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.says()


@contextmanager
def instances(*started: Instance) -> Iterator[None]:
    try:
        for instance in started:
            assert instance.says() == "ready"
        yield
    finally:
        for instance in started:
            instance.process.kill()
            instance.process.communicate()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One database, one Redis and three servers for Redlock, for all instances."""
    with ExitStack() as stack:
        redis, *nodes = [stack.enter_context(EmbeddedValkey()).url for _ in range(4)]
        for name, value in service_environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ENVIRONMENT", "test")
        monkeypatch.setenv("LOG_LEVEL", "ERROR")
        for timeout in ("REDIS_TIMEOUT", "LOCK_REDIS_TIMEOUT", "LOCK_NODE_TIMEOUT"):
            monkeypatch.setenv(timeout, "10")  # the machine may be busy
        monkeypatch.setenv("SERVICE_NAME", f"test-{uuid4().hex[:8]}")
        monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'items.db'}")
        monkeypatch.setenv("REDIS_URL", redis)
        monkeypatch.setenv("REDLOCK_URLS", ",".join(nodes))
        yield


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("before", "after"), [("lua", "redlock"), ("redlock", "lua")])
def test_a_rollout_with_a_lock_held(
    template: Path, tmp_path: Path, servers: None, before: str, after: str
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    start_service(template, old, NEWEST, database="sqlite", lock_strategy=before)
    shutil.copytree(old, new)
    assert update_service(new, NEWEST, lock_strategy=after) == []
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=old, check=True)
    item = Instance(old, "", 0).says()

    holder, waiter = Instance(old, item, 1), Instance(old, item, 2)
    newcomer, second = Instance(new, item, 3), Instance(new, item, 4)
    with instances(holder, waiter, newcomer, second):
        assert holder.next() == "held"
        assert waiter.next() == "timeout", "instances of one kind see each other's locks"
        assert newcomer.next() == "held", "those of two kinds do not"
        assert second.next() == "timeout"
        assert [newcomer.next(), newcomer.next()] == ["written", "3"]
        assert holder.next() == "refused", "it came too late, and its fence says so"
        assert holder.next() == "3"

    # The control: without their fences the older of the two overwrites what is newer.
    holder, newcomer = Instance(old, item, 5, fenced=False), Instance(new, item, 6, fenced=False)
    with instances(holder, newcomer):
        assert [holder.next(), newcomer.next()] == ["held", "held"]
        assert [newcomer.next(), holder.next()] == ["written", "written"]
        assert holder.next() == "5"
