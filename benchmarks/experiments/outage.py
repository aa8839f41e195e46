"""Redis frozen, killed and back again, under steady load."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import load
from benchmarks.figures import milliseconds, percentile, spread, verdict
from benchmarks.peers import ON_REDIS, OURS, Peer
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Serving, Session, steadily
from devservers.valkey import EmbeddedValkey

LOADER = 0.05
ADDED = 0.075
"""Seconds that an outage may add to a load."""
RATE = 30
"""Low, because all are measured at once: together they keep their core less than half busy."""
PATIENCE = 3.0
BEFORE, AWAY, AFTER = 0.3, 1.5, 2.5
"""Seconds."""
_ITEMS = [f"1000-{number}" for number in range(20)]


@dataclass(frozen=True, slots=True)
class Accident:
    name: str
    begin: Callable[[EmbeddedValkey], None]
    end: Callable[[EmbeddedValkey], None]


ACCIDENTS = (
    Accident("frozen", EmbeddedValkey.freeze, EmbeddedValkey.thaw),
    Accident("killed", EmbeddedValkey.kill, EmbeddedValkey.restart),
)


def measure(session: Session) -> Result:
    peers = session.peers(OURS, *ON_REDIS)
    session.steps(len(ACCIDENTS) * session.rounds)
    tables, charts = [], []
    targets: list[tuple[str, ...]] = []
    for accident in ACCIDENTS:
        samples: dict[Peer, list[load.Sample]] = {peer: [] for peer in peers}
        with session.serving_apart(peers, LOADER=str(LOADER)) as serving:
            for _ in range(session.rounds):
                session.step(accident.name)
                # All items are cached then where that is possible: some do not come back.
                load.run(steadily(serving, _ITEMS, rate=50, seconds=len(_ITEMS) / 50, patience=1))
                happened = load.run(_happening(session, serving, accident))
                for peer, sample in zip(serving, happened, strict=True):
                    samples[peer].append(sample)
        tables.append(_table(session, accident, samples))
        targets += _targets(accident, samples[OURS])
        charts.append(_chart(accident, samples))
    return Result(
        title="Redis away",
        question=f"{RATE} requests a second for {len(_ITEMS)} items that take "
        f"{LOADER * 1000:.0f} ms to load; soon Redis is gone for {AWAY} s, then it is back. A "
        f"client gives up after {PATIENCE:.0f} s. Who fails, and how long does it take?",
        tables=(*tables, Table("Targets", ("", "target", "found", ""), tuple(targets))),
        charts=tuple(charts),
        rounds=session.rounds,
    )


def _times(session: Session) -> tuple[float, float, float]:
    """Seconds before, during and after the outage."""
    return (0.2, 0.4, 0.6) if session.quick else (BEFORE, AWAY, AFTER)


async def _happening(session: Session, serving: Serving, accident: Accident) -> list[load.Sample]:
    """What comes of the requests to all of them."""
    before, away, after = _times(session)

    async def happen() -> None:
        for pause, what in ((before, accident.begin), (away, accident.end)):
            await asyncio.sleep(pause)
            await asyncio.gather(*(asyncio.to_thread(what, redis) for _, redis in serving.values()))

    happening = asyncio.create_task(happen())
    seconds = before + away + after
    samples = await steadily(serving, _ITEMS, rate=RATE, seconds=seconds, patience=PATIENCE)
    await happening
    return samples


def _table(session: Session, accident: Accident, samples: dict[Peer, list[load.Sample]]) -> Table:
    before, away, after = _times(session)
    return Table(
        f"Redis {accident.name}: of {int(RATE * (before + away + after))} requests in a round",
        ("", "failed", "of these not answered", "p99, ms", "worst, ms", "s until it is as before"),
        tuple(
            (
                peer.name,
                str(spread([one.errors for one in found])),
                str(spread([one.statuses[0] for one in found])),
                str(spread([percentile(one.seconds, 0.99) * 1000 for one in found])),
                str(spread([percentile(one.seconds, 1) * 1000 for one in found])),
                str(spread([_recovery(one, before + away) for one in found])),
            )
            for peer, found in samples.items()
        ),
    )


def _targets(accident: Accident, ours: Sequence[load.Sample]) -> list[tuple[str, ...]]:
    failed = sum(one.errors for one in ours)
    p99, most = spread([percentile(one.seconds, 0.99) * 1000 for one in ours]), LOADER + ADDED
    return [
        (f"{accident.name}: failed, in all rounds", "0", str(failed), verdict(failed == 0)),
        (
            f"{accident.name}: p99, ms",
            f"at most {milliseconds(most)}",
            str(p99),
            verdict(p99.median <= most * 1000),
        ),
    ]


def _chart(accident: Accident, samples: dict[Peer, list[load.Sample]]) -> Chart:
    bars = []
    for peer, found in samples.items():
        failed = spread([one.errors for one in found])
        bars.append(Point(peer.name, failed.median, failed.low, failed.high))
    return Chart(
        f"outage-{accident.name}",
        f"Redis {accident.name} for {AWAY} s, {RATE} requests a second",
        "bars",
        "",
        "failed requests",
        {"": tuple(sorted(bars, key=lambda point: -point.median))},
    )


def _recovery(sample: load.Sample, back: float) -> float:
    """How long after Redis was back the last bad answer came, or one that was loaded."""
    bad = [
        answer.ended
        for answer in sample.answers
        if answer.ended > back and (answer.seconds > 0.8 * LOADER or answer.status != 200)
    ]
    return max(bad) - back if bad else 0.0
