"""The database frozen for five seconds under load: what is still served."""

import asyncio

from benchmarks import load
from benchmarks.figures import percentile, spread
from benchmarks.peers import (
    ALCAZABA_PLAIN,
    CACHE2_REDIS,
    CASHEWS_EARLY,
    CASHEWS_PLAIN,
    NO_CACHE,
    OURS,
    REDIS_GET,
    Peer,
)
from benchmarks.results import Result, Table
from benchmarks.session import Serving, Session, steadily
from devservers.postgres import EmbeddedPostgres

TTL = 2
RATE = 40
FROZEN = 5.0
GOOD = 1.0
PATIENCE = FROZEN + 2
_ITEMS = [f"1000-{number}" for number in range(20)]


def measure(session: Session) -> Result:
    peers = session.peers(
        OURS,
        REDIS_GET,
        CACHE2_REDIS,
        CASHEWS_PLAIN,
        CASHEWS_EARLY,
        ALCAZABA_PLAIN,
        NO_CACHE,
    )
    session.steps(session.rounds)
    samples: dict[Peer, list[load.Sample]] = {peer: [] for peer in peers}
    with EmbeddedPostgres() as postgres:
        database = postgres.url.replace("+asyncpg", "")
        with session.serving_apart(peers, TTL=str(TTL), DATABASE=database) as serving:
            for _ in range(session.rounds):
                session.step("frozen")
                load.run(steadily(serving, _ITEMS, rate=RATE, seconds=session.seconds(1, 0.3)))
                for peer, sample in zip(
                    serving, load.run(_frozen(session, serving, postgres)), strict=True
                ):
                    samples[peer].append(sample)
    return Result(
        title="Database away",
        question=f"{RATE} requests a second for {len(_ITEMS)} items, fresh for {TTL} s, from a "
        f"PostgreSQL that is frozen for {FROZEN:.0f} seconds. How many are answered all the same?",
        tables=(
            Table(
                "While the database is frozen",
                ("", f"answered in {GOOD:.0f} s, %", "errors", "p50, ms", "p99, ms"),
                tuple(
                    (
                        peer.name,
                        str(spread([100 * _good(one) for one in found])),
                        str(spread([one.errors for one in found])),
                        str(spread([percentile(one.seconds, 0.5) * 1000 for one in found])),
                        str(spread([percentile(one.seconds, 0.99) * 1000 for one in found])),
                    )
                    for peer, found in samples.items()
                ),
                "Ours serves what it had (`stale_if_error`), and says so in its headers.",
            ),
        ),
        rounds=session.rounds,
    )


def _good(sample: load.Sample) -> float:
    """The share of the requests that were answered well and soon."""
    good = sum(answer.status == 200 and answer.seconds < GOOD for answer in sample.answers)
    return good / sum(sample.statuses.values())


async def _frozen(
    session: Session, serving: Serving, postgres: EmbeddedPostgres
) -> list[load.Sample]:
    """What comes of the requests that are sent while the database is frozen."""
    seconds = session.seconds(FROZEN, 0.5)
    postgres.freeze()
    asking = asyncio.create_task(
        steadily(serving, _ITEMS, rate=RATE, seconds=seconds, patience=PATIENCE)
    )
    try:
        await asyncio.sleep(seconds)
    finally:
        postgres.thaw()
    return await asking
