"""Redis frozen, killed and back again, under steady load."""

import asyncio
from collections.abc import Callable

from benchmarks import load
from benchmarks.figures import milliseconds, percentile
from benchmarks.peers import ON_REDIS, OURS, Peer
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session
from devservers.valkey import EmbeddedValkey

LOADER = 0.02
RATE = 150
PATIENCE = 5.0
_ITEMS = 20


def measure(session: Session) -> Result:
    peers = session.peers(OURS, *ON_REDIS)
    session.steps(2 * len(peers))
    tables, charts = [], []
    for name, begin, end in (
        ("frozen", EmbeddedValkey.freeze, EmbeddedValkey.thaw),
        ("killed", EmbeddedValkey.kill, EmbeddedValkey.restart),
    ):
        rows, bars = [], []
        for peer in peers:
            session.step(f"{name}: {peer.name}")
            sample, back = _outage(session, peer, begin, end)
            worst = max(sample.seconds, default=PATIENCE)
            errors = sample.errors
            bars.append(Point(peer.name, errors, errors, errors))
            rows.append(
                (
                    peer.name,
                    str(errors),
                    str(sample.statuses[0]),
                    milliseconds(percentile(sample.seconds, 0.99)),
                    milliseconds(worst),
                    _recovery(sample, back),
                )
            )
        tables.append(
            Table(
                f"Redis {name}",
                (
                    "",
                    "failed",
                    "of these not answered",
                    "p99, ms",
                    "worst, ms",
                    "seconds until it is as before",
                ),
                tuple(rows),
            )
        )
        charts.append(
            Chart(
                f"outage-{name}",
                f"Redis {name} for some seconds, {RATE} requests a second",
                "bars",
                "",
                "failed requests",
                {"": tuple(sorted(bars, key=lambda point: -point.median))},
            )
        )
    return Result(
        title="Redis away",
        question=f"{RATE} requests a second for {_ITEMS} items that take {LOADER * 1000:.0f} ms to "
        "load; after a second Redis is gone for 2.5, then it is back. A client gives up after "
        f"{PATIENCE:.0f} s. Who fails, and how long does it take?",
        tables=tuple(tables),
        charts=tuple(charts),
    )


def _outage(
    session: Session,
    peer: Peer,
    begin: Callable[[EmbeddedValkey], None],
    end: Callable[[EmbeddedValkey], None],
) -> tuple[load.Sample, float]:
    """What came of the requests, and after how many seconds Redis was back."""
    before, away, after = (0.2, 0.4, 0.6) if session.quick else (1.0, 2.5, 2.5)
    with (
        session.redis() as redis,
        session.serve(peer, redis.url, LOADER=str(LOADER)) as application,
    ):
        paths = [peer.url_path(f"1000-{number}") for number in range(_ITEMS)]
        load.run(load.fetch_all(application.port, paths))

        async def scene() -> load.Sample:
            async def accident() -> None:
                await asyncio.sleep(before)
                await asyncio.to_thread(begin, redis)
                await asyncio.sleep(away)
                await asyncio.to_thread(end, redis)

            happening = asyncio.create_task(accident())
            sample = await load.steadily(
                application.port,
                paths,
                rate=RATE,
                seconds=before + away + after,
                patience=PATIENCE,
            )
            await happening
            return sample

        return load.run(scene()), before + away


def _recovery(sample: load.Sample, back: float) -> str:
    """How long after Redis was back the last bad answer came, or one that a load made slow."""
    bad = [
        answer.ended
        for answer in sample.answers
        if answer.ended > back and (answer.seconds > LOADER / 2 or answer.status != 200)
    ]
    return f"{max(bad) - back:.1f}" if bad else "0.0"
