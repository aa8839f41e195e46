"""Telling who waits from who is only slow, on a machine of any speed."""

import asyncio


class Turns:
    """Counts the turns of the event loop: what waits for nothing takes few, however busy it is."""

    def __init__(self) -> None:
        self.count = 0
        self._counting = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1

    def mark_in(self, seconds: float) -> list[int]:
        """A list that gets the count of then."""
        marks: list[int] = []
        asyncio.get_running_loop().call_later(seconds, lambda: marks.append(self.count))
        return marks

    def since(self, marks: list[int]) -> int:
        """How many there were since that moment; 0 if it is still to come."""
        return self.count - marks[0] if marks else 0

    def stop(self) -> None:
        self._counting.cancel()
