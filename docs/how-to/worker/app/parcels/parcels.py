"""Parcels, kept in memory here; in a table with you."""

import asyncio


class Parcels:
    """What waits, and what was sent."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.sent: list[str] = []
        self.carrier = asyncio.Event()
        """Set while it takes parcels."""

    async def send_next(self) -> bool:
        """Send one; whether there was one."""
        if not self.waiting:
            return False
        parcel = self.waiting.pop(0)
        await self.carrier.wait()
        self.sent.append(parcel)
        return True
