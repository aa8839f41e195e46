"""Bytes per entry, in Redis and in the process."""

from collections.abc import Callable, Sequence

import psutil
from redis import Redis

from benchmarks import load
from benchmarks.figures import spread
from benchmarks.peers import IN_MEMORY, NO_CACHE, ON_REDIS, OURS, OURS_NEAR, Peer
from benchmarks.results import Result, Table
from benchmarks.session import Session

SIZE = 1000


def measure(session: Session) -> Result:
    on_redis = session.peers(OURS, *ON_REDIS)
    in_memory = session.peers(OURS_NEAR, *IN_MEMORY, NO_CACHE)
    session.steps(len(on_redis) + len(in_memory))
    return Result(
        title="Memory",
        question=f"How much room does an entry take whose body has about {SIZE} bytes?",
        tables=(
            Table(
                "In Redis",
                ("", "bytes per entry", "/ body"),
                tuple(_row(peer, _in_redis(session, peer)) for peer in on_redis),
                "By `used_memory` of the server: entry, key, expiry and everything else.",
            ),
            Table(
                "In the process",
                ("", "bytes per entry", "/ body"),
                tuple(_row(peer, _in_process(session, peer)) for peer in in_memory),
                "By the resident memory of the process. The line without a cache says what the "
                "requests alone leave behind.",
            ),
        ),
        rounds=session.rounds,
    )


def _row(peer: Peer, sizes: Sequence[float]) -> tuple[str, ...]:
    return (
        peer.name,
        str(spread([round(size) for size in sizes])),
        str(spread([size / SIZE for size in sizes])),
    )


def _in_redis(session: Session, peer: Peer) -> list[float]:
    """Bytes of an entry, by round."""
    session.step(f"in Redis: {peer.name}")
    with session.redis() as redis, session.serve(peer, redis.url) as application:

        def used() -> float:
            with Redis.from_url(redis.url) as client:
                return float(client.info("memory")["used_memory"])

        _ask(application.port, peer, 0, 100)  # connections, scripts, the first of the table
        return _grown(
            session, used, 400, lambda first, end: _ask(application.port, peer, first, end)
        )


def _in_process(session: Session, peer: Peer) -> list[float]:
    """Bytes of an entry, by round."""
    session.step(f"in the process: {peer.name}")
    with session.redis() as redis, session.serve(peer, redis.url) as application:
        process = psutil.Process(application.pid)

        def ask(first: int, end: int) -> None:
            # A near cache keeps what it has seen in Redis: everything is asked for twice.
            for _ in range(2):
                _ask(application.port, peer, first, end)

        ask(0, 100 if session.quick else 1_000)
        return _grown(session, lambda: float(process.memory_info().rss), 900, ask)


def _grown(
    session: Session, used: Callable[[], float], entries: int, ask: Callable[[int, int], None]
) -> list[float]:
    """By how much each entry of a round made it grow."""
    entries = 100 if session.quick else entries
    sizes = []
    for number in range(1, session.rounds + 1):
        before = used()
        ask(number * entries + 1_000, (number + 1) * entries + 1_000)
        sizes.append((used() - before) / entries)
    return sizes


def _ask(port: int, peer: Peer, first: int, end: int) -> None:
    paths = [peer.url_path(f"{SIZE}-{number}") for number in range(first, end)]
    load.run(load.fetch_all(port, paths))
