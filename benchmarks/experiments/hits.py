"""What a cached GET costs, end to end: throughput and latency at 64 connections."""

from benchmarks import load
from benchmarks.figures import interleaved, middle, milliseconds, percentile, ratios, shown, spread
from benchmarks.peers import (
    BARE,
    IN_MEMORY,
    NO_CACHE,
    ON_REDIS,
    OURS,
    OURS_NEAR,
    OURS_PRIVATE,
    OURS_STATIC,
    STATIC,
    Peer,
)
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session

CONNECTIONS = 64
ITEM = "1000-1"
OURS_ALL = (OURS_NEAR, OURS, OURS_PRIVATE)
# The least that each of ours shall be, as a multiple of the other; see CONTRIBUTING.md.
TARGETS = {
    ("bare ASGI", OURS_NEAR): 0.85,
    ("bare ASGI", OURS): 0.65,
    ("bare ASGI", OURS_PRIVATE): 0.23,
    ("static FastAPI route", OURS_PRIVATE): 0.9,
    ("redis.asyncio GET", OURS_NEAR): 6.5,
    ("redis.asyncio GET", OURS): 5.5,
    ("redis.asyncio GET", OURS_PRIVATE): 1.8,
    ("fastapi-cache2, memory", OURS_NEAR): 5,
    ("fastapi-cache2", OURS): 8,
    ("fastapi-cache2", OURS_PRIVATE): 3,
    ("cashews, client side", OURS_NEAR): 5,
    ("cashews", OURS): 6.5,
    ("cashews", OURS_PRIVATE): 2.4,
    ("aiocache", OURS): 5.5,
    ("aiocache", OURS_PRIVATE): 2.2,
}


def measure(session: Session) -> Result:
    peers = session.peers(BARE, *OURS_ALL, STATIC, OURS_STATIC, NO_CACHE, *ON_REDIS, *IN_MEMORY)
    connections = 8 if session.quick else CONNECTIONS
    session.steps(len(peers) * session.rounds)
    with session.redis() as redis, session.serving(peers, redis.url) as serving:

        def sample(peer: Peer) -> load.Sample:
            session.step(peer.name)
            port, path = serving[peer].port, peer.url_path(ITEM)
            return load.run(
                load.saturate([port], [path], connections=connections, seconds=session.seconds(0.6))
            )

        for peer in peers:
            load.run(load.fetch_all(serving[peer].port, [peer.url_path(ITEM)]))
            load.run(
                load.saturate(
                    [serving[peer].port],
                    [peer.url_path(ITEM)],
                    connections=connections,
                    seconds=session.seconds(0.2),
                )
            )
        samples = interleaved(session.rounds, peers, sample)
    rates = {peer: [one.per_second for one in samples[peer]] for peer in peers}
    by_name = {peer.name: rates[peer] for peer in peers}
    ceiling = rates[BARE]
    rows = []
    for peer in sorted(peers, key=lambda peer: -middle(rates[peer])):
        found = samples[peer]
        rows.append(
            (
                peer.name,
                str(ratios(rates[peer], ceiling)),
                milliseconds(spread([percentile(one.seconds, 0.5) for one in found]).median),
                milliseconds(spread([percentile(one.seconds, 0.99) for one in found]).median),
                str(sum(one.errors for one in found)),
                shown(middle([one.busy for one in found])),
            )
        )
    beside = []
    for peer in peers:
        if peer not in OURS_ALL and peer is not OURS_STATIC:
            beside.append(
                (peer.name, *(str(ratios(rates[mine], rates[peer])) for mine in OURS_ALL))
            )
    reached = []
    for (other, mine), target in TARGETS.items():
        if other in by_name:
            found_ratio = ratios(rates[mine], by_name[other])
            verdict = "reached" if found_ratio.median >= target else "missed"
            reached.append((f"{mine.name} / {other}", shown(target), str(found_ratio), verdict))
    bars = tuple(
        Point(peer.name, r.median, r.low, r.high)
        for peer in sorted(peers, key=lambda peer: middle(rates[peer]))
        for r in [ratios(rates[peer], ceiling)]
    )
    return Result(
        title="Cache hits",
        question="How much of what uvicorn can send at all is left, when the same 1 KB comes out "
        f"of a cache, {connections} connections asking for one item?",
        tables=(
            Table(
                "Requests per second as a share of a bare ASGI application",
                ("", "throughput / ceiling", "p50, ms", "p99, ms", "errors", "load generator busy"),
                tuple(rows),
                "p99 at saturation is mostly the queue of the other connections. The load "
                "generator shares its core with Redis; well below 1 it was not what set the limit.",
            ),
            Table(
                "Ours as a multiple of the others",
                ("", *(mine.name for mine in OURS_ALL)),
                tuple(beside),
            ),
            Table("Targets", ("ratio", "target", "found", ""), tuple(reached)),
        ),
        charts=(
            Chart(
                "hits",
                f"Cache hits, {connections} connections (bare ASGI = 1)",
                "bars",
                "",
                "requests per second / those of a bare ASGI application",
                {"": bars},
            ),
        ),
        rounds=session.rounds,
    )
