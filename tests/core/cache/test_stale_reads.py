"""Several processes, a truth with versions, and faults: no read is older than what was confirmed.

Only what `docs/cache.md` of a service says is allowed: while a process does not read from Redis, a
caller may join a load that began before another process's change.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.support.asking import ask
from tests.support.cluster import SLOTS, EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey
from tests.support.states import demoted, stateful, unsaved, without_replicas

pytestmark = pytest.mark.slow

PROCESSES = 3
ROOT = Path(__file__).parents[3]

Record = Callable[[str, object], None]
Worker = subprocess.Popen[str]
Check = Callable[..., AbstractAsyncContextManager["Run"]]
"""Processes that read and write while the body runs; `without` names a mechanism."""


@dataclass
class Run:
    """What the processes have found, once they were stopped."""

    truth: Redis
    found: list[dict[str, Any]]

    def total(self, name: str) -> float:
        return float(sum(one[name] for one in self.found))

    def all(self, name: str) -> list[str]:
        return [text for one in self.found for text in one[name]]

    async def go_on(self) -> None:
        """Let some changes be confirmed under the present circumstances."""

        async def confirmed() -> int:
            counts = [await self.truth.zcard(f"confirmed:{key}") for key in range(4)]
            return sum(counts)

        enough = await confirmed() + 15

        async def is_enough() -> bool:
            return await confirmed() >= enough

        await until(is_enough)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "template")])
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.core.cache.stale_worker"],
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": paths},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(PROCESSES)
        ]


def answer(worker: Worker) -> dict[str, Any]:
    assert worker.stdout is not None
    for line in worker.stdout:  # the others are its log
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError("the worker ended")


@pytest.fixture
def check(workers: list[Worker]) -> Check:
    @asynccontextmanager
    async def checked(url: str, *, without: str = "") -> AsyncIterator[Run]:
        with EmbeddedValkey() as server:
            run = Run(Redis(port=server.port), [])
            for seed, worker in enumerate(workers):
                order = {"url": url, "truth": server.url, "seed": seed, "without": without}
                assert worker.stdin is not None
                worker.stdin.write(f"{json.dumps(order)}\n")
                worker.stdin.flush()

            async def all_are_ready() -> bool:
                return int(await run.truth.get("ready") or 0) == PROCESSES

            try:
                await until(all_are_ready)
                await run.go_on()
                yield run
                await run.go_on()
            finally:
                await run.truth.set("stop", 1)
                run.found = [await asyncio.to_thread(answer, worker) for worker in workers]
                await run.truth.aclose()

    return checked


def judge(run: Run, record_property: Record) -> None:
    for name in ("reads", "hits", "confirmed", "unconfirmed", "oldest_offline"):
        record_property(name, run.total(name))
    record_property("joined offline", len(run.all("offline")))
    assert run.all("violations") == []
    assert run.total("hits") >= 20  # or it would show nothing
    assert run.total("oldest_offline") < 10  # the loader_timeout


async def restart_on_snapshot(server: EmbeddedValkey, run: Run) -> None:
    await asyncio.to_thread(ask, server, "SAVE")
    await run.go_on()
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)


async def freeze(server: EmbeddedValkey, run: Run) -> None:
    server.freeze()
    await asyncio.sleep(0.3)
    server.thaw()


def refuse(state: Any) -> Callable[[EmbeddedValkey, Run], Awaitable[None]]:
    async def fault(server: EmbeddedValkey, run: Run) -> None:
        context = state(server)
        await asyncio.to_thread(context.__enter__)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(context.__exit__, None, None, None)

    return fault


async def test_one_server_with_everything_that_can_happen_to_it(
    check: Check, record_property: Record
) -> None:
    faults = [freeze, *map(refuse, (without_replicas, demoted, unsaved)), restart_on_snapshot]
    with stateful() as server:
        async with check(server.url) as run:
            for fault in faults:
                await fault(server, run)
                await run.go_on()
    judge(run, record_property)
    assert run.total("unconfirmed") > 0


async def test_a_failover_that_loses_writes(check: Check, record_property: Record) -> None:
    with ReplicatedValkey() as servers:
        async with check(servers.url) as run:
            primary = servers.primary()
            replica = next(server for server in servers.servers if server is not primary)
            ask(replica, "CONFIG", "SET", "masteruser", "nobody")
            ask(replica, "CONFIG", "SET", "masterauth", "wrong")
            ask(primary, "CLIENT", "KILL", "TYPE", "replica")
            await until(lambda: ask(replica, "ROLE")[3] != "connected")
            await run.go_on()
            await asyncio.to_thread(servers.kill_primary)
            await asyncio.to_thread(servers.wait_for_new_primary, primary, 60)
    judge(run, record_property)


async def test_a_cluster_that_is_resharded(check: Check, record_property: Record) -> None:
    with EmbeddedCluster() as cluster:
        async with check(cluster.url) as run:
            for name in ("svc:1:item:{i0}", "svc:1:item:version", "svc:1:@tag:tag:1"):
                await asyncio.to_thread(move, cluster, key_slot(name.encode()))
                await run.go_on()
    judge(run, record_property)


def move(cluster: EmbeddedCluster, slot: int) -> None:
    """Move a slot as `redis-cli --cluster reshard` does, key by key."""
    number = slot * len(cluster.nodes) // SLOTS
    source, target = cluster.nodes[number], cluster.nodes[number - 1]
    ids = {node: ask(node, "CLUSTER", "MYID") for node in (source, target)}
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
        ask(source, "MIGRATE", target.host, target.port, keys[0], 0, 5_000)
    for node in (target, *(node for node in cluster.nodes if node is not target)):
        ask(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])


@pytest.mark.parametrize("without", ["looking at servers", "checking leases"])
async def test_control_the_checker_finds_what_is_missing(check: Check, without: str) -> None:
    with EmbeddedValkey() as server:
        async with check(server.url, without=without) as run:
            while not await run.truth.exists("violations"):
                if without == "looking at servers":
                    await restart_on_snapshot(server, run)
                await run.go_on()
    assert run.all("violations")
