"""What can be wrong with a Redis that a service depends on, and how each is mended."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from devservers.valkey import EmbeddedValkey
from tests.support.faultproxy import FaultProxy


@dataclass
class Patient:
    """A server that is about to suffer."""

    server: EmbeddedValkey
    proxy: FaultProxy
    admin: Redis
    """Past the proxy."""
    url: str = field(init=False)
    """The way that the service takes."""

    def __post_init__(self) -> None:
        self.url = f"redis://app:secret@127.0.0.1:{self.proxy.port}/0"


@asynccontextmanager
async def open_patient(server: EmbeddedValkey) -> AsyncIterator[Patient]:
    """A server that is well, and empty, whatever happened to it before."""
    server.thaw()
    if not await asyncio.to_thread(server.answers):
        await asyncio.to_thread(server.restart)
    admin = Redis(port=server.port)
    await OutOfMemory.allow_writes(admin)
    await ReadOnly.follow(admin, "NO", "ONE")
    await admin.flushall()
    await allow(admin, "secret")
    async with FaultProxy(server.host, server.port) as proxy:
        yield Patient(server, proxy, admin)
    await admin.aclose()


async def allow(admin: Redis, password: str) -> None:
    await admin.execute_command(
        "ACL", "SETUSER", "app", "reset", "on", f">{password}", "~*", "&*", "+@all"
    )


class Fault(ABC):
    """`inflict` and `mend`; `reachable` says that reads go on working meanwhile."""

    reachable = False

    @abstractmethod
    async def inflict(self, patient: Patient) -> None: ...

    @abstractmethod
    async def mend(self, patient: Patient) -> None: ...


class Killed(Fault):
    async def inflict(self, patient: Patient) -> None:
        await asyncio.to_thread(patient.server.kill)

    async def mend(self, patient: Patient) -> None:
        await asyncio.to_thread(patient.server.restart)
        await allow(patient.admin, "secret")


class Frozen(Fault):
    async def inflict(self, patient: Patient) -> None:
        patient.server.freeze()

    async def mend(self, patient: Patient) -> None:
        patient.server.thaw()


class Slow(Fault):
    """Slower than a read may take, faster than a command may."""

    async def inflict(self, patient: Patient) -> None:
        await patient.proxy.delay(0.1)

    async def mend(self, patient: Patient) -> None:
        await patient.proxy.heal()


class VerySlow(Slow):
    async def inflict(self, patient: Patient) -> None:
        await patient.proxy.delay(1)


class HalfAnswering(Fault):
    async def inflict(self, patient: Patient) -> None:
        await patient.proxy.cut_replies(after=3)

    async def mend(self, patient: Patient) -> None:
        await patient.proxy.heal()


class WrongPassword(Fault):
    async def inflict(self, patient: Patient) -> None:
        await allow(patient.admin, "changed")
        await patient.admin.execute_command("CLIENT", "KILL", "USER", "app")

    async def mend(self, patient: Patient) -> None:
        await allow(patient.admin, "secret")


class OutOfMemory(Fault):
    reachable = True

    async def inflict(self, patient: Patient) -> None:
        await patient.admin.config_set("maxmemory", 1)

    async def mend(self, patient: Patient) -> None:
        await self.allow_writes(patient.admin)

    @staticmethod
    async def allow_writes(admin: Redis) -> None:
        await admin.config_set("maxmemory", 0)


class ReadOnly(Fault):
    """The primary became a replica."""

    reachable = True

    async def inflict(self, patient: Patient) -> None:
        await self.follow(patient.admin, "127.0.0.1", 1)

    async def mend(self, patient: Patient) -> None:
        await self.follow(patient.admin, "NO", "ONE")

    @staticmethod
    async def follow(admin: Redis, *whom: Any) -> None:
        await admin.execute_command("REPLICAOF", *whom)


FAULTS: list[Fault] = [
    Killed(),
    Frozen(),
    Slow(),
    VerySlow(),
    HalfAnswering(),
    WrongPassword(),
    OutOfMemory(),
    ReadOnly(),
]
REACHABLE = [fault for fault in FAULTS if fault.reachable]
UNREACHABLE = [fault for fault in FAULTS if not fault.reachable]
TOO_SLOW = [fault for fault in UNREACHABLE if type(fault) is not Slow]
"""Also for an invalidation."""


def name_of(fault: Fault) -> str:
    return type(fault).__name__
