"""Redis frozen, killed and back again, under steady load."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks import load
from benchmarks.figures import milliseconds, percentile, verdict
from benchmarks.peers import ON_REDIS, OURS, Peer
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session
from devservers.valkey import EmbeddedValkey

LOADER = 0.05
ADDED = 0.075
"""Seconds that an outage may add to a load."""
RATE = 75
PATIENCE = 5.0
_ITEMS = 20
_PATHS = [f"1000-{number}" for number in range(_ITEMS)]
_TOGETHER = 4
"""So many peers are measured at once: together they keep their core a quarter busy at most."""


def measure(session: Session) -> Result:
    peers = session.peers(OURS, *ON_REDIS)
    session.steps(2 * len(peers))
    tables, charts = [], []
    targets: list[tuple[str, ...]] = []
    for name, begin, end in (
        ("frozen", EmbeddedValkey.freeze, EmbeddedValkey.thaw),
        ("killed", EmbeddedValkey.kill, EmbeddedValkey.restart),
    ):
        samples: dict[Peer, load.Sample] = {}
        for first in range(0, len(peers), _TOGETHER):
            samples |= _outages(session, peers[first : first + _TOGETHER], name, begin, end)
        tables.append(_table(f"Redis {name}", samples, back=sum(_times(session)[:2])))
        targets += _targets(name, samples[OURS])
        charts.append(_chart(name, samples))
    return Result(
        title="Redis away",
        question=f"{RATE} requests a second for {_ITEMS} items that take {LOADER * 1000:.0f} ms to "
        "load; after a second Redis is gone for 2.5, then it is back. A client gives up after "
        f"{PATIENCE:.0f} s. Who fails, and how long does it take?",
        tables=(*tables, Table("Targets", ("", "target", "found", ""), tuple(targets))),
        charts=tuple(charts),
    )


def _times(session: Session) -> tuple[float, float, float]:
    """Seconds before, during and after the outage."""
    return (0.2, 0.4, 0.6) if session.quick else (1.0, 2.5, 3.5)


def _table(title: str, samples: dict[Peer, load.Sample], back: float) -> Table:
    return Table(
        title,
        ("", "failed", "of these not answered", "p99, ms", "worst, ms", "s until it is as before"),
        tuple(
            (
                peer.name,
                str(sample.errors),
                str(sample.statuses[0]),
                milliseconds(percentile(sample.seconds, 0.99)),
                milliseconds(max(sample.seconds, default=PATIENCE)),
                _recovery(sample, back),
            )
            for peer, sample in samples.items()
        ),
    )


def _targets(name: str, ours: load.Sample) -> list[tuple[str, ...]]:
    p99, most = percentile(ours.seconds, 0.99), LOADER + ADDED
    return [
        (f"{name}: failed", "0", str(ours.errors), verdict(ours.errors == 0)),
        (
            f"{name}: p99, ms",
            f"at most {most * 1000:.0f}",
            milliseconds(p99),
            verdict(p99 <= most),
        ),
    ]


def _chart(name: str, samples: dict[Peer, load.Sample]) -> Chart:
    bars = [
        Point(peer.name, sample.errors, sample.errors, sample.errors)
        for peer, sample in samples.items()
    ]
    return Chart(
        f"outage-{name}",
        f"Redis {name} for 2.5 s, {RATE} requests a second",
        "bars",
        "",
        "failed requests",
        {"": tuple(sorted(bars, key=lambda point: -point.median))},
    )


def _outages(
    session: Session,
    peers: Sequence[Peer],
    name: str,
    begin: Callable[[EmbeddedValkey], None],
    end: Callable[[EmbeddedValkey], None],
) -> dict[Peer, load.Sample]:
    """What came of the requests to some peers, each with a Redis of its own."""
    before, away, after = _times(session)
    with ExitStack() as stack:
        servers, applications = [], {}
        for peer in peers:
            session.step(f"{name}: {peer.name}")
            servers.append(stack.enter_context(session.redis()))
            serving = session.serve(peer, servers[-1].url, LOADER=str(LOADER))
            applications[peer] = stack.enter_context(serving)
            load.run(load.fetch_all(applications[peer].port, peer.url_paths(_PATHS)))

        async def accident() -> None:
            for pause, happens in ((before, begin), (away, end)):
                await asyncio.sleep(pause)
                await asyncio.gather(*(asyncio.to_thread(happens, server) for server in servers))

        async def scene() -> list[load.Sample]:
            happening = asyncio.create_task(accident())
            samples = await asyncio.gather(
                *(
                    load.steadily(
                        application.port,
                        peer.url_paths(_PATHS),
                        rate=RATE,
                        seconds=before + away + after,
                        patience=PATIENCE,
                    )
                    for peer, application in applications.items()
                )
            )
            await happening
            return samples

        return dict(zip(peers, load.run(scene()), strict=True))


def _recovery(sample: load.Sample, back: float) -> str:
    """How long after Redis was back the last bad answer came, or one that was loaded."""
    bad = [
        answer.ended
        for answer in sample.answers
        if answer.ended > back and (answer.seconds > 0.8 * LOADER or answer.status != 200)
    ]
    return f"{max(bad) - back:.1f}" if bad else "0.0"
