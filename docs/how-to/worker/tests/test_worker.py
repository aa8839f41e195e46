"""The worker sends what waits, shows that it lives, and finishes what it has begun."""

import asyncio
from argparse import Namespace
from pathlib import Path

import pytest

from app.commands import worker
from app.main import create_service
from app.parcels.parcels import Parcels
from app.settings import Settings
from devservers.waiting import until


async def test_the_worker_ends_between_two_parcels(settings: Settings, tmp_path: Path) -> None:
    heartbeat, parcels = tmp_path / "worker", Parcels()
    parcels.waiting += ["one", "two", "three"]
    service = create_service(settings)
    service.share(parcels=parcels)
    async with service.running():
        working = asyncio.create_task(
            worker.run(service, Namespace(heartbeat=heartbeat, pause=0.01))
        )
        await until(lambda: parcels.waiting == ["two", "three"])
        assert not heartbeat.exists()
        parcels.carrier.set()
        await until(lambda: parcels.sent == ["one", "two", "three"])
        assert heartbeat.exists()

        parcels.carrier.clear()
        parcels.waiting += ["four", "five"]
        await until(lambda: parcels.waiting == ["five"])
        working.cancel()  # as SIGTERM does
        asyncio.get_running_loop().call_later(0.05, parcels.carrier.set)
        with pytest.raises(asyncio.CancelledError):
            await working
    assert parcels.sent[-1] == "four"
    assert parcels.waiting == ["five"]
