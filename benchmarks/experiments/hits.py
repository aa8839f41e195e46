"""What a cached GET costs, end to end: throughput and latency at 64 connections."""

from collections.abc import Sequence
from statistics import median

from benchmarks import load
from benchmarks.figures import interleaved, milliseconds, percentile, ratios, shown, verdict
from benchmarks.peers import (
    AIOCACHE_PLAIN,
    BARE,
    CACHE2_MEMORY,
    CACHE2_REDIS,
    CASHEWS_NEAR,
    CASHEWS_PLAIN,
    IN_MEMORY,
    NO_CACHE,
    ON_REDIS,
    OURS,
    OURS_NEAR,
    OURS_PRIVATE,
    OURS_STATIC,
    REDIS_GET,
    STATIC,
    Peer,
)
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session

CONNECTIONS = 64
# Different ones, because some libraries put requests for one key together.
ITEMS = [f"1000-{number}" for number in range(100)]
OURS_ALL = (OURS_NEAR, OURS, OURS_PRIVATE)
# The least that each of ours shall be, as a multiple of the other.
TARGETS = {
    (BARE, OURS_NEAR): 0.85,
    (BARE, OURS): 0.65,
    (BARE, OURS_PRIVATE): 0.23,
    (STATIC, OURS_PRIVATE): 0.9,
    (REDIS_GET, OURS_NEAR): 6.5,
    (REDIS_GET, OURS): 5.5,
    (REDIS_GET, OURS_PRIVATE): 1.8,
    (CACHE2_MEMORY, OURS_NEAR): 5,
    (CACHE2_REDIS, OURS): 8,
    (CACHE2_REDIS, OURS_PRIVATE): 3,
    (CASHEWS_NEAR, OURS_NEAR): 5,
    (CASHEWS_PLAIN, OURS): 6.5,
    (CASHEWS_PLAIN, OURS_PRIVATE): 2.4,
    (AIOCACHE_PLAIN, OURS): 5.5,
    (AIOCACHE_PLAIN, OURS_PRIVATE): 2.2,
}


Samples = dict[Peer, list[load.Sample]]
Rates = dict[Peer, list[float]]


def measure(session: Session) -> Result:
    peers = session.peers(BARE, *OURS_ALL, STATIC, OURS_STATIC, NO_CACHE, *ON_REDIS, *IN_MEMORY)
    samples = _samples(session, peers)
    rates = {peer: [one.per_second for one in samples[peer]] for peer in peers}
    return Result(
        title="Cache hits",
        question="How much of what uvicorn can send at all is left, when the same 1 KB comes out "
        f"of a cache? {CONNECTIONS} connections ask for {len(ITEMS)} items in turn.",
        tables=(_overview(samples, rates), _beside(rates), _targets(rates)),
        charts=(_chart(rates),),
        rounds=session.rounds,
    )


def _samples(session: Session, peers: Sequence[Peer]) -> Samples:
    session.steps(len(peers) * session.rounds)
    with session.redis() as redis, session.serving(peers, redis.url) as serving:

        def sample(peer: Peer, seconds: float) -> load.Sample:
            return load.run(
                load.saturate(
                    [serving[peer].port],
                    peer.url_paths(ITEMS),
                    connections=8 if session.quick else CONNECTIONS,
                    seconds=seconds,
                )
            )

        def step(peer: Peer) -> load.Sample:
            session.step(peer.name)
            return sample(peer, session.seconds(0.6))

        for peer in peers:
            load.run(load.fetch_all(serving[peer].port, peer.url_paths(ITEMS)))
            sample(peer, session.seconds(0.2))
        return interleaved(session.rounds, peers, step)


def _overview(samples: Samples, rates: Rates) -> Table:
    rows = []
    for peer in reversed(_by_ratio(rates)):
        found = samples[peer]
        rows.append(
            (
                peer.name,
                str(ratios(rates[peer], rates[BARE])),
                milliseconds(median(percentile(one.seconds, 0.5) for one in found)),
                milliseconds(median(percentile(one.seconds, 0.99) for one in found)),
                str(sum(one.errors for one in found)),
                shown(median(one.busy for one in found)),
            )
        )
    return Table(
        "Requests per second as a share of a bare ASGI application",
        ("", "throughput / ceiling", "p50, ms", "p99, ms", "errors", "load generator busy"),
        tuple(rows),
        "p99 at saturation is mostly the queue of the other connections. The load generator shares "
        "its core with Redis; well below 1 it was not what set the limit.",
    )


def _by_ratio(rates: Rates) -> list[Peer]:
    """The slowest first."""
    return sorted(rates, key=lambda peer: ratios(rates[peer], rates[BARE]).median)


def _beside(rates: Rates) -> Table:
    others = [peer for peer in rates if peer not in OURS_ALL and peer is not OURS_STATIC]
    return Table(
        "Ours as a multiple of the others",
        ("", *(mine.name for mine in OURS_ALL)),
        tuple(
            (peer.name, *(str(ratios(rates[mine], rates[peer])) for mine in OURS_ALL))
            for peer in others
        ),
    )


def _targets(rates: Rates) -> Table:
    rows = []
    for (other, mine), target in TARGETS.items():
        if other in rates:
            found = ratios(rates[mine], rates[other])
            reached = verdict(found.median >= target)
            rows.append((f"{mine.name} / {other.name}", shown(target), str(found), reached))
    return Table("Targets", ("ratio", "target", "found", ""), tuple(rows))


def _chart(rates: Rates) -> Chart:
    bars = []
    for peer in _by_ratio(rates):
        ratio = ratios(rates[peer], rates[BARE])
        bars.append(Point(peer.name, ratio.median, ratio.low, ratio.high))
    return Chart(
        "hits",
        f"Cache hits, {CONNECTIONS} connections (bare ASGI = 1)",
        "bars",
        "",
        "requests per second / those of a bare ASGI application",
        {"": tuple(bars)},
    )
