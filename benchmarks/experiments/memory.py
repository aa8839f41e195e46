"""Bytes per entry, in Redis and in the process."""

import psutil
from redis import Redis

from benchmarks import load
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
                tuple((peer.name, *_shown(_in_redis(session, peer))) for peer in on_redis),
                "By `used_memory` of the server: entry, key, expiry and everything else.",
            ),
            Table(
                "In the process",
                ("", "bytes per entry", "/ body"),
                tuple((peer.name, *_shown(_in_process(session, peer))) for peer in in_memory),
                "By the resident memory of the process. The line without a cache says what the "
                "requests alone leave behind.",
            ),
        ),
    )


def _shown(size: float) -> tuple[str, str]:
    return f"{size:.0f}", f"{size / SIZE:.2f}"


def _in_redis(session: Session, peer: Peer) -> float:
    session.step(f"in Redis: {peer.name}")
    entries = 200 if session.quick else 3_000
    with session.redis() as redis, session.serve(peer, redis.url) as application:
        _ask(application.port, peer, 0, 100)  # connections, scripts, the first of the table
        with Redis.from_url(redis.url) as client:
            before = client.info("memory")["used_memory"]
            _ask(application.port, peer, 100, 100 + entries)
            return float(client.info("memory")["used_memory"] - before) / entries


def _in_process(session: Session, peer: Peer) -> float:
    session.step(f"in the process: {peer.name}")
    warm, entries = (100, 500) if session.quick else (1_000, 6_000)
    with session.redis() as redis, session.serve(peer, redis.url) as application:
        process = psutil.Process(application.pid)
        # A near cache keeps what it has seen in Redis: everything is asked for twice.
        for _ in range(2):
            _ask(application.port, peer, 0, warm)
        before = process.memory_info().rss
        for _ in range(2):
            _ask(application.port, peer, warm, warm + entries)
        return (process.memory_info().rss - before) / entries


def _ask(port: int, peer: Peer, first: int, end: int) -> None:
    paths = [peer.url_path(f"{SIZE}-{number}") for number in range(first, end)]
    load.run(load.fetch_all(port, paths))
