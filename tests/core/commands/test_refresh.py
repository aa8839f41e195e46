"""The nightly refresh is done once, however many processes start it, also if one is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from types import ModuleType

import pytest
from redis.asyncio import Redis

from app import commands
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from scripts.running import service_environment
from tests.core.commands import examples
from tests.core.commands.process import GO_ON, HOT, LOADS, STARTED

pytestmark = pytest.mark.slow

PROCESSES = 3


class Fleet:
    """Processes that run one command."""

    def __init__(self, url: str, redis: Redis, stack: ExitStack) -> None:
        self.redis = redis
        self._url = url
        self._stack = stack
        self._running: list[subprocess.Popen[str]] = []

    async def start(self, package: ModuleType, *command: str, loads: int) -> None:
        """Start them, and return as soon as all are there and so many loads have begun."""
        program = [sys.executable, "-m", "tests.core.commands.process", package.__name__]
        paths = os.pathsep.join(path for path in sys.path if path)
        for _ in range(PROCESSES):
            process = subprocess.Popen(  # noqa: ASYNC220
                [*program, *command],
                env=service_environment() | {"REDIS_URL": self._url, "PYTHONPATH": paths},
                stdout=subprocess.PIPE,
                text=True,
            )
            self._stack.enter_context(process)
            self._stack.callback(process.kill)
            self._running.append(process)

        async def are_at_it() -> bool:
            started = int(await self.redis.llen(STARTED))
            return started == PROCESSES and int(await self.redis.llen(LOADS)) == loads

        await until(are_at_it)

    async def loads(self) -> list[tuple[str, int]]:
        """Which process has begun to load which number."""
        lines = await self.redis.lrange(LOADS, 0, -1)
        found = [line.decode().split() for line in lines if isinstance(line, bytes)]
        return [(pid, int(number)) for pid, number in found]

    async def ends(self) -> list[tuple[int, str]]:
        """Let loads go on, and return the exit codes and results."""
        await self.redis.set(GO_ON, 1)
        outputs = await asyncio.gather(
            *(asyncio.to_thread(process.communicate, timeout=HANG) for process in self._running)
        )
        codes = [process.returncode for process in self._running]
        return [(code, out) for code, (out, _) in zip(codes, outputs, strict=True)]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    with EmbeddedValkey() as server, ExitStack() as stack:
        async with Redis.from_url(server.url) as redis:
            yield Fleet(server.url, redis, stack)


async def test_of_three_processes_one_refreshes(fleet: Fleet) -> None:
    await fleet.start(commands, "refresh", loads=HOT)
    ends = await fleet.ends()
    assert [code for code, _ in ends] == [0] * PROCESSES
    assert all(f"loaded={HOT} failed=0" in out for _, out in ends)
    assert sum("by another process" in out for _, out in ends) == PROCESSES - 1
    loads = await fleet.loads()
    assert sorted(number for _, number in loads) == list(range(HOT))
    assert len({pid for pid, _ in loads}) == 1


async def test_when_the_one_that_refreshes_is_killed_one_other_does_it(fleet: Fleet) -> None:
    await fleet.start(commands, "refresh", loads=HOT)
    (killed,) = {pid for pid, _ in await fleet.loads()}
    os.kill(int(killed), signal.SIGKILL)
    ends = await fleet.ends()
    assert sorted(code for code, _ in ends) == [-signal.SIGKILL, 0, 0]
    afterwards = (await fleet.loads())[HOT:]
    assert sorted(number for _, number in afterwards) == list(range(HOT))
    assert len({pid for pid, _ in afterwards} - {killed}) == 1


async def test_control_without_the_lease_each_process_refreshes(fleet: Fleet) -> None:
    await fleet.start(examples, "refresh-alone", loads=HOT * PROCESSES)
    assert [code for code, _ in await fleet.ends()] == [0] * PROCESSES
