"""The database frozen for five seconds under load: what is still served."""

from benchmarks import load
from benchmarks.figures import milliseconds, percentile
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
from benchmarks.session import Session
from devservers.postgres import EmbeddedPostgres

TTL = 2
RATE = 150
GOOD = 1.0
PATIENCE = 6.0
_ITEMS = 20


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
    session.steps(len(peers))
    rows = []
    with EmbeddedPostgres() as postgres:
        for peer in peers:
            session.step(peer.name)
            sample = _frozen(session, peer, postgres)
            good = sum(answer.status == 200 and answer.seconds < GOOD for answer in sample.answers)
            total = sum(sample.statuses.values())
            rows.append(
                (
                    peer.name,
                    f"{good / total:.0%}",
                    str(sample.errors),
                    milliseconds(percentile(sample.seconds, 0.5)),
                    milliseconds(percentile(sample.seconds, 0.99)),
                )
            )
    return Result(
        title="Database away",
        question=f"{RATE} requests a second for {_ITEMS} items, fresh for {TTL} s, from a "
        "PostgreSQL that is frozen for five seconds. How many are answered all the same?",
        tables=(
            Table(
                "While the database is frozen",
                ("", f"answered in {GOOD:.0f} s", "errors", "p50, ms", "p99, ms"),
                tuple(rows),
                "Ours serves what it had (`stale_if_error`), and says so in its headers.",
            ),
        ),
    )


def _frozen(session: Session, peer: Peer, postgres: EmbeddedPostgres) -> load.Sample:
    """What comes of the requests that are sent while the database is frozen."""
    database = postgres.url.replace("+asyncpg", "")
    with (
        session.redis() as redis,
        session.serve(peer, redis.url, TTL=str(TTL), DATABASE=database) as application,
    ):
        paths = [peer.url_path(f"1000-{number}") for number in range(_ITEMS)]
        load.run(load.fetch_all(application.port, paths))
        load.run(load.steadily(application.port, paths, rate=RATE, seconds=session.seconds(1, 0.3)))
        postgres.freeze()
        try:
            return load.run(
                load.steadily(
                    application.port,
                    paths,
                    rate=RATE,
                    seconds=session.seconds(5, 0.5),
                    patience=session.seconds(PATIENCE, 1),
                )
            )
        finally:
            postgres.thaw()
