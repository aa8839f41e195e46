"""The work that every application caches: one loader, slow as told, that counts its calls.

ITEMS      requests name them SIZE-NUMBER, such as /items/1000-7: about SIZE bytes as JSON
TTL        seconds an entry is fresh
LOADER     seconds the loader takes
CALLS      a file that gets one byte for each call
DATABASE   asks this PostgreSQL server, so that the loader is as slow as that is
"""

import asyncio
import os
from random import Random

from pydantic import BaseModel

TTL = int(os.environ.get("TTL", "3600"))
REDIS_URL = os.environ["REDIS_URL"]
VARIANT = os.environ.get("VARIANT", "")
_LOADER = float(os.environ.get("LOADER", "0"))
_DATABASE = os.environ.get("DATABASE", "")
_CALLS = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _prose(size: int) -> str:
    """Compresses about as well as text does."""
    random = Random(7)
    words = [
        "".join(random.choices("abcdefghijklmnop", k=random.randint(2, 9))) for _ in range(300)
    ]
    return " ".join(random.choices(words, k=size // 5 + 20))[:size]


_TEXT = _prose(1_100_000)


class Item(BaseModel):
    id: str
    name: str
    description: str


async def load(item_id: str) -> Item:
    os.write(_CALLS, b".")
    if _DATABASE:
        await _ask_database()
    elif _LOADER:
        await asyncio.sleep(_LOADER)
    size = int(item_id.partition("-")[0])
    return Item(id=item_id, name="lamp", description=_TEXT[: max(0, size - 50)])


_connections = None
_opening = asyncio.Lock()


async def _ask_database() -> None:
    global _connections
    import asyncpg

    async with _opening:
        if _connections is None:
            _connections = await asyncpg.create_pool(
                _DATABASE, min_size=1, max_size=10, timeout=2, command_timeout=5
            )
    async with _connections.acquire(timeout=2) as connection:
        await connection.fetchval("SELECT count(*) FROM pg_class")
