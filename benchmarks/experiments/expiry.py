"""A popular key that expires every two seconds, under steady load."""

from benchmarks import load
from benchmarks.figures import milliseconds, percentile, shown, verdict
from benchmarks.peers import ON_REDIS, OURS, OURS_STRICT
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session

TTL = 2
LOADER = 0.1
RATE = 300
SLOW = 0.05
SECONDS = 3 * TTL + 0.5
ITEM = "1000-1"
STEADY = 0.75 * TTL
"""Seconds in which the item does not expire yet."""


def measure(session: Session) -> Result:
    peers = session.peers(OURS, OURS_STRICT, *ON_REDIS)
    session.steps(len(peers))
    rows, bars = [], []
    worst = steady = 0.0
    for peer in peers:
        session.step(peer.name)
        with (
            session.redis() as redis,
            session.serve(peer, redis.url, TTL=str(TTL), LOADER=str(LOADER)) as application,
        ):
            path = peer.url_path(ITEM)
            load.run(load.fetch_all(application.port, [path]))
            calls = application.calls()
            sample = load.run(
                load.steadily(
                    application.port, [path], rate=RATE, seconds=session.seconds(SECONDS, 2.5)
                )
            )
            if peer is OURS:
                worst = max(sample.seconds)
                before = [one.seconds for one in sample.answers if one.ended < STEADY]
                steady = percentile(before, 0.99)
            slow = sum(seconds > SLOW for seconds in sample.seconds)
            bars.append(Point(peer.name, slow, slow, slow))
            rows.append(
                (
                    peer.name,
                    str(slow),
                    milliseconds(percentile(sample.seconds, 0.5)),
                    milliseconds(percentile(sample.seconds, 0.99)),
                    milliseconds(max(sample.seconds, default=0.0)),
                    str(application.calls() - calls),
                    str(sample.errors),
                )
            )
    return Result(
        title="Hot key",
        question=f"One item is asked for {RATE} times a second, is fresh for {TTL} s, and takes "
        f"{LOADER * 1000:.0f} ms to load. Who notices that it expires? {SECONDS:.1f} s, "
        "three expiries.",
        tables=(
            Table(
                f"Requests slower than {SLOW * 1000:.0f} ms, of {int(RATE * SECONDS)}",
                ("", "slower", "p50, ms", "p99, ms", "worst, ms", "loader calls", "errors"),
                tuple(rows),
                "Nothing stale: without early refresh and without stale-while-revalidate, for what "
                "must not be old.",
            ),
            Table(
                "Targets",
                ("", "target", "found", ""),
                (
                    (
                        "ours: worst / p99 while nothing expires",
                        "at most 2",
                        shown(worst / steady),
                        verdict(worst <= 2 * steady),
                    ),
                ),
            ),
        ),
        charts=(
            Chart(
                "expiry",
                "A hot key that expires every 2 s",
                "bars",
                "",
                f"requests slower than {SLOW * 1000:.0f} ms",
                {"": tuple(sorted(bars, key=lambda point: -point.median))},
            ),
        ),
    )
