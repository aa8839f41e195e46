"""Send parcels until it is told to stop."""

import argparse
import asyncio
from pathlib import Path

import structlog

from app.core.service import Service
from app.core.tasks import Tasks
from app.parcels.parcels import Parcels

log = structlog.get_logger(__name__)

GRACE_SECONDS = 20.0
"""Less than the time after which the platform kills it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--heartbeat", type=Path, default=Path("/tmp/worker"))
    parser.add_argument("--pause", type=float, default=1, metavar="SECONDS")


async def run(service: Service, arguments: argparse.Namespace) -> None:
    parcels, under_way = service.find(Parcels), Tasks()
    try:
        while True:
            try:
                # In a task of its own: SIGTERM ends the loop, and not what is half done.
                found = await under_way.shield(parcels.send_next())
                arguments.heartbeat.touch()
            except Exception:  # the next one may go better; without a heartbeat it is restarted
                log.exception("worker.failed")
                found = False
            if not found:
                await asyncio.sleep(arguments.pause)
    finally:
        await under_way.stop(GRACE_SECONDS)
