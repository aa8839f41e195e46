"""How the cost of a hit changes with the number of connections."""

from benchmarks import load
from benchmarks.experiments.hits import ITEMS
from benchmarks.figures import interleaved, ratios
from benchmarks.peers import (
    AIOCACHE_PLAIN,
    BARE,
    CACHE2_REDIS,
    CASHEWS_PLAIN,
    OURS,
    OURS_NEAR,
    OURS_PRIVATE,
    REDIS_GET,
    Peer,
)
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session

CONNECTIONS = (1, 10, 64, 256, 1000)


def measure(session: Session) -> Result:
    peers = session.peers(
        BARE, OURS_NEAR, OURS, OURS_PRIVATE, REDIS_GET, CACHE2_REDIS, CASHEWS_PLAIN, AIOCACHE_PLAIN
    )
    steps = (1, 10) if session.quick else CONNECTIONS
    session.steps(len(peers) * len(steps) * session.rounds)
    with session.redis() as redis, session.serving(peers, redis.url) as serving:
        for peer in peers:
            load.run(load.fetch_all(serving[peer].port, peer.url_paths(ITEMS)))

        def sample(contestant: tuple[Peer, int]) -> load.Sample:
            peer, connections = contestant
            session.step(f"{peer.name}, {connections} connections")
            ports, paths = [serving[peer].port], peer.url_paths(ITEMS)
            seconds = session.seconds(0.25)
            return load.run(load.saturate(ports, paths, connections=connections, seconds=seconds))

        contestants = [(peer, connections) for connections in steps for peer in peers]
        samples = interleaved(session.rounds, contestants, sample)
    found = {
        (peer, step): ratios(
            [one.per_second for one in samples[peer, step]],
            [one.per_second for one in samples[BARE, step]],
        )
        for peer in peers
        for step in steps
    }
    errors = {
        peer: sum(one.errors for step in steps for one in samples[peer, step]) for peer in peers
    }
    others = [peer for peer in peers if peer is not BARE]
    return Result(
        title="Concurrency",
        question="How does the cost of a hit change with the number of clients?",
        tables=(
            Table(
                "Requests per second as a share of a bare ASGI application, by connections",
                ("", *map(str, steps), "errors"),
                tuple(
                    (peer.name, *(str(found[peer, step]) for step in steps), str(errors[peer]))
                    for peer in others
                ),
            ),
        ),
        charts=(
            Chart(
                "concurrency",
                "Cache hits by connections (bare ASGI = 1)",
                "lines",
                "connections",
                "requests per second / those of a bare ASGI application",
                {
                    peer.name: tuple(
                        Point(step, ratio.median, ratio.low, ratio.high)
                        for step in steps
                        for ratio in [found[peer, step]]
                    )
                    for peer in others
                },
                log_x=True,
            ),
        ),
        rounds=session.rounds,
    )
