"""An application that is loaded once and forked, as by `gunicorn --preload`.

    python -m tests.core.events.prefork URL WORKERS EVENTS [same]

Each worker publishes its share and prints the number of each event that it handles, until the
program ends. With `same` what identifies a process is the same in all, as if made before the fork.
"""

import asyncio
import os
import sys
import time

from app.core.events import Events, consumer, publish
from app.core.redis import ClientOptions, create_client
from devservers.waiting import until
from tests.core.events.conftest import PATIENCE, Counted


def load(url: str) -> Events:
    options = ClientOptions(name="orders", timeout=PATIENCE, connect_timeout=PATIENCE)
    events = Events(create_client(url, options), service="orders")

    @events.on("orders", Counted)
    async def take(event: Counted) -> None:
        os.write(sys.stdout.fileno(), f"{event.number}\n".encode())

    return events


async def work(events: Events, numbers: range, parent: int) -> None:
    async with events:
        for number in numbers:
            await events.publish(Counted(number=number), strict=True)
        await until(lambda: os.getppid() != parent, seconds=3600)


def main(url: str, workers: int, share: int, *, same: bool) -> None:
    if same:
        for module in (publish, consumer):
            setattr(module, "token_hex", "{:x}".format)  # noqa: B010
    events = load(url)
    parent = os.getpid()
    for worker in range(workers):
        if not os.fork():
            asyncio.run(work(events, range(worker * share, (worker + 1) * share), parent))
            os._exit(0)
    time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), same=sys.argv[4:] == ["same"])
