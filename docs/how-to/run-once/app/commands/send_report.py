"""Send the report of a day: once, however many processes start it."""

import argparse

from redis.asyncio import Redis

from app.core.locks import Locks
from app.core.service import Service

_WEEK = 7 * 86_400
_PATIENCE = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("day", help="such as 2026-12-24")


async def send(day: str) -> None:
    print(f"the report of {day}")


async def run(service: Service, arguments: argparse.Namespace) -> None:
    redis, locks = service.find(Redis), service.find(Locks)
    done = f"{service.name}:data:report:{arguments.day}"
    # The others wait: if the one that has the lock is killed, one goes on ten seconds later.
    async with locks.hold("send-report", ttl=10, timeout=_PATIENCE):
        if not await redis.exists(done):
            await send(arguments.day)
            await redis.set(done, 1, ex=_WEEK)
