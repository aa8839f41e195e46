"""How the cost of a hit grows with the work: number of entries, size, number of tags."""

from collections.abc import Mapping, Sequence

from redis import Redis

from benchmarks import load
from benchmarks.experiments.hits import CONNECTIONS, ITEMS
from benchmarks.figures import interleaved, ratios
from benchmarks.peers import (
    ALCAZABA_PLAIN,
    BARE,
    CACHE2_REDIS,
    CASHEWS_PLAIN,
    OURS,
    OURS_NEAR,
    OURS_PRIVATE,
    OURS_TAGGED,
    REDIS_GET,
    Peer,
)
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.servers import Application
from benchmarks.session import Session

ENTRIES = (100, 10_000, 1_000_000)
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
TAGS = (0, 1, 10)
_ASKED = 500
"""As many different items are requested in turn, where there are so many."""
_FILL = "for i = ARGV[1], ARGV[2] do redis.call('SET', 'filler:' .. i, ARGV[3]) end"

Rates = dict[Peer, list[float]]


def measure(session: Session) -> Result:
    steps = session.rounds * sum(
        len(peers) * len(steps)
        for peers, steps in (
            (_of_entries(session), _entries(session)),
            (_of_sizes(session), _sizes(session)),
            (_of_tags(session), _tags(session)),
        )
    )
    session.steps(steps)
    shown = [
        _compared(
            "entries", "entries in Redis", "redis.asyncio GET", REDIS_GET, _by_entries(session)
        ),
        _compared("sizes", "bytes of the body", "bare ASGI of that size", BARE, _by_sizes(session)),
        _compared("tags", "tags of the entry", "redis.asyncio GET", REDIS_GET, _by_tags(session)),
    ]
    return Result(
        title="Growth",
        question="How does the cost of a hit grow with what there is to do? "
        f"{CONNECTIONS} connections.",
        tables=tuple(table for table, _ in shown),
        charts=tuple(chart for _, chart in shown),
        rounds=session.rounds,
    )


def _entries(session: Session) -> Sequence[int]:
    return (100, 1_000) if session.quick else ENTRIES


def _sizes(session: Session) -> Sequence[int]:
    return (100, 10_000) if session.quick else SIZES


def _tags(session: Session) -> Sequence[int]:
    return (0, 2) if session.quick else TAGS


def _of_entries(session: Session) -> list[Peer]:
    return session.peers(REDIS_GET, OURS_NEAR, OURS)


def _of_sizes(session: Session) -> list[Peer]:
    return session.peers(
        BARE, OURS_NEAR, OURS, OURS_PRIVATE, REDIS_GET, CACHE2_REDIS, CASHEWS_PLAIN
    )


def _of_tags(session: Session) -> list[Peer]:
    return session.peers(REDIS_GET, OURS_TAGGED, CASHEWS_PLAIN, ALCAZABA_PLAIN)


def _by_entries(session: Session) -> dict[int, Rates]:
    """Redis holds more and more, and more and more different entries are asked for."""
    peers = _of_entries(session)
    found, filled = {}, 0
    with session.redis() as redis, session.serving(peers, redis.url) as serving:
        for entries in _entries(session):
            _fill(redis.url, filled, entries)
            filled = entries
            items = [f"1000-{number}" for number in range(min(entries, _ASKED))]
            found[entries] = _rates(
                session, {serving[peer]: peer.url_paths(items) for peer in peers}
            )
    return found


def _by_sizes(session: Session) -> dict[int, Rates]:
    peers = _of_sizes(session)
    found = {}
    with session.redis() as redis, session.serving(peers, redis.url) as serving:
        for size in _sizes(session):
            items = [f"{size}-{number}" for number in range(20)]
            found[size] = _rates(session, {serving[peer]: peer.url_paths(items) for peer in peers})
    return found


def _by_tags(session: Session) -> dict[int, Rates]:
    """The peers' tags are given where a route is declared, so they are started anew."""
    peers = _of_tags(session)
    found = {}
    for tags in _tags(session):
        with (
            session.redis() as redis,
            session.serving(peers, redis.url, TAGS=str(tags)) as serving,
        ):
            found[tags] = _rates(
                session, {serving[peer]: peer.url_paths(ITEMS, tags=tags) for peer in peers}
            )
    return found


def _rates(session: Session, paths: Mapping[Application, Sequence[str]]) -> Rates:
    """Requests per second, for these paths in turn."""

    def rate(application: Application) -> float:
        session.step(application.peer.name)
        sample = load.run(
            load.saturate(
                [application.port],
                paths[application],
                connections=8 if session.quick else CONNECTIONS,
                seconds=session.seconds(0.2),
            )
        )
        if sample.errors:
            raise RuntimeError(f"{application.peer.name}: {dict(sample.statuses)}")
        return sample.per_second

    for application, wanted in paths.items():
        load.run(load.fetch_all(application.port, wanted))
    rates = interleaved(session.rounds, list(paths), rate)
    return {application.peer: found for application, found in rates.items()}


def _compared(
    name: str, x: str, what: str, base: Peer, rates: dict[int, Rates]
) -> tuple[Table, Chart]:
    """Each step's rates as ratios of `base` in the same rounds of that step."""
    peers = [peer for peer in next(iter(rates.values())) if peer is not base]
    found = {
        peer: {step: ratios(of[peer], of[base]) for step, of in rates.items()} for peer in peers
    }
    table = Table(
        f"Requests per second / those of {what}, by {x}",
        ("", *(f"{step:,}" for step in rates)),
        tuple((peer.name, *map(str, found[peer].values())) for peer in peers),
    )
    chart = Chart(
        name,
        f"Cache hits by {x}",
        "lines",
        x,
        f"requests per second / {what}",
        {
            peer.name: tuple(
                Point(step, ratio.median, ratio.low, ratio.high)
                for step, ratio in found[peer].items()
            )
            for peer in peers
        },
        log_x=name != "tags",
    )
    return table, chart


def _fill(url: str, start: int, end: int) -> None:
    with Redis.from_url(url) as redis:
        for first in range(start, end, 20_000):
            redis.eval(_FILL, 0, first, min(first + 20_000, end) - 1, "x" * 100)
