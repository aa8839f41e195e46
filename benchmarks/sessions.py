"""What a session costs beside a plain GET: `python -m benchmarks.sessions` (under a minute).

Each round measures all of it, one right after the other, so that what else the machine does
concerns everything alike; the figures are medians of the rounds' ratios.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1] / "template"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.fernet import Fernet

from app.core.redis import ClientOptions, create_client
from app.core.sessions import Session, Sessions
from app.core.sessions.keyring import DEVELOPMENT_SECRET, KeyRing
from devservers.valkey import EmbeddedValkey
from tests.support.wire import counted_writes

ROUNDS = 9
RUNS = 1500
PAYLOAD = b"x" * 200


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    """The time of one run, one after the other."""
    started = perf_counter()
    for _ in range(RUNS):
        await work()
    return (perf_counter() - started) / RUNS


def crypto_seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    for _ in range(RUNS):
        work()
    return (perf_counter() - started) / RUNS


async def round_trips(work: Callable[[], Awaitable[object]]) -> int:
    with counted_writes() as wire:
        await work()
    return len(wire)


async def log_in(sessions: Sessions) -> str:
    session = await sessions.open(None)
    session.log_in("somebody")
    session.data["note"] = PAYLOAD.decode()
    await session.save()
    cookie = session.new_cookie()
    assert cookie is not None
    return cookie[0]


async def main() -> None:
    with EmbeddedValkey() as valkey:
        client = create_client(valkey.url, ClientOptions(name="benchmark", timeout=5))
        sessions = Sessions(client, prefix="benchmark:session", keys=[DEVELOPMENT_SECRET])
        session_id = await log_in(sessions)
        await client.set("plain", PAYLOAD)
        number = 0

        async def load() -> Session:
            return await sessions.open(session_id)

        async def load_and_save() -> None:
            nonlocal number
            number += 1
            session = await load()
            session.data["number"] = number
            await session.save()

        async def get() -> object:
            return await client.get("plain")

        ring, fernet = KeyRing([DEVELOPMENT_SECRET]), Fernet(Fernet.generate_key())
        blob, token = ring.encrypt(PAYLOAD, session="s", context=b"c"), fernet.encrypt(PAYLOAD)
        crypto: dict[str, Callable[[], object]] = {
            "encrypt": lambda: ring.encrypt(PAYLOAD, session="s", context=b"c"),
            "decrypt": lambda: ring.decrypt(blob, session="s", context=b"c"),
            "Fernet, encrypt": lambda: fernet.encrypt(PAYLOAD),
            "Fernet, decrypt": lambda: fernet.decrypt(token),
        }
        work = {"load and touch": load, "load, change, save": load_and_save}
        await load_and_save()

        ratios: dict[str, list[float]] = {name: [] for name in [*work, *crypto]}
        times: dict[str, list[float]] = {name: [] for name in crypto}
        for _ in range(ROUNDS):
            plain = await seconds(get)
            for name, operation in work.items():
                ratios[name].append(await seconds(operation) / plain)
            for name, step in crypto.items():
                took = crypto_seconds(step)
                times[name].append(took * 1e6)
                ratios[name].append(took / plain)

        print(f"{len(PAYLOAD)} bytes; seconds / seconds of redis.asyncio GET, one at a time")
        print(f"{'':20}{'round trips':>12}{'ratio':>20}{'us':>8}")
        for name, found in ratios.items():
            low, _, high = quantiles(found, n=4)
            trips = str(await round_trips(work[name])) if name in work else ""
            took_us = f"{median(times[name]):.1f}" if name in times else ""
            ratio = f"{median(found):.3f} ({low:.3f}-{high:.3f})"
            print(f"{name:20}{trips:>12}{ratio:>20}{took_us:>8}")
        print(f"size: {len(blob)} bytes encrypted, {len(token)} as Fernet")
        await client.aclose()


if __name__ == "__main__":
    asyncio.run(main())
