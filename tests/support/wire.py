"""What goes over the wire to Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio.connection as connections

from app.core.fastpath.redis import RawConnection


class Wire:
    """Counts what is written to Redis: one write is one round trip."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def __len__(self) -> int:
        return len(self.writes)

    @property
    def text(self) -> bytes:
        return b"".join(self.writes)


@contextmanager
def counted_writes() -> Iterator[Wire]:
    """Every packet that any client of this process sends."""
    wire, original = Wire(), connections.AbstractConnection.send_packed_command
    ask = RawConnection.ask

    async def send(self: Any, command: Any, check_health: bool = True) -> None:
        wire.writes.append(command if isinstance(command, bytes) else b"".join(command))
        await original(self, command, check_health)

    async def ask_directly(self: RawConnection, commands: bytes, count: int = 1) -> list[Any]:
        wire.writes.append(commands)
        return await ask(self, commands, count)

    connections.AbstractConnection.send_packed_command = send  # type: ignore[method-assign]  # counted
    RawConnection.ask = ask_directly  # type: ignore[method-assign]  # counted
    try:
        yield wire
    finally:
        RawConnection.ask = ask  # type: ignore[method-assign]  # restored
        connections.AbstractConnection.send_packed_command = original  # type: ignore[method-assign]  # restored
