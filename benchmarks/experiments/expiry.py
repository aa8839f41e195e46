"""A popular key that expires every two seconds, under steady load."""

import math

from benchmarks import load
from benchmarks.figures import Spread, milliseconds, percentile, shown, spread, verdict
from benchmarks.peers import ON_REDIS, OURS, OURS_KEPT, OURS_STRICT, Peer
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session, steadily

TTL = 2
LOADER = 0.1
RATE = 300
SLOW = 0.05
ITEM = "1000-1"
QUIET = TTL / 2
"""Seconds after the first load in which nothing expires."""
PERIOD = TTL + LOADER
"""From one expiry to the next, at least: a round."""
_TOGETHER = 5
"""So many peers are measured at once: together they keep their core less than half busy."""


def measure(session: Session) -> Result:
    ours = session.peers(OURS, OURS_STRICT, OURS_KEPT)
    others = session.peers(*ON_REDIS)
    groups = [ours, *(others[i : i + _TOGETHER] for i in range(0, len(others), _TOGETHER))]
    session.steps(len(groups))
    found: dict[Peer, _Found] = {}
    for group in groups:
        session.step(", ".join(peer.name for peer in group))
        found |= _expiries(session, group)
    twice = 2 * percentile([one for seconds in found[OURS_KEPT].rounds for one in seconds], 0.99)
    above, anyway = found[OURS].slower(twice), found[OURS_KEPT].slower(twice)
    slow = {peer: one.slower(SLOW) for peer, one in found.items()}
    return Result(
        title="Hot key",
        question=f"One item is asked for {RATE} times a second, is fresh for {TTL} s, and takes "
        f"{LOADER * 1000:.0f} ms to load. Who notices that it expires? A round is one expiry.",
        tables=(
            Table(
                f"Requests slower than {SLOW * 1000:.0f} ms, of {int(RATE * PERIOD)} in a round",
                ("", "slower", "p50, ms", "p99, ms", "worst, ms", "loader calls", "errors"),
                tuple(
                    (
                        peer.name,
                        str(slow[peer]),
                        *(str(one.quantile(share)) for share in (0.5, 0.99, 1)),
                        shown(one.calls / len(one.rounds)),
                        str(one.errors),
                    )
                    for peer, one in found.items()
                ),
                "Nothing stale: without early refresh and without stale-while-revalidate, for what "
                "must not be old.",
            ),
            Table(
                "Targets",
                ("", "target", "found", ""),
                (
                    (
                        f"ours: requests above twice the steady p99 ({milliseconds(twice)} ms)",
                        f"as if nothing expired: {anyway}",
                        str(above),
                        verdict(above.median <= anyway.median),
                    ),
                ),
                "The steady p99 is that of the same service, at the same time, with an item that "
                "does not expire. What is above it then is the machine's doing.",
            ),
        ),
        charts=(
            Chart(
                "expiry",
                "A hot key that expires every 2 s",
                "bars",
                "",
                f"requests slower than {SLOW * 1000:.0f} ms",
                {
                    "": tuple(
                        Point(peer.name, of.median, of.low, of.high)
                        for peer, of in sorted(slow.items(), key=lambda item: -item[1].median)
                    )
                },
            ),
        ),
        rounds=session.rounds,
    )


class _Found:
    """What came of one peer's requests, by expiry."""

    def __init__(self, sample: load.Sample, rounds: int, calls: int) -> None:
        self.calls = calls
        self.errors = sample.errors
        self.rounds: list[list[float]] = [[] for _ in range(rounds)]
        for answer in sample.answers:
            number = math.floor((answer.ended - answer.seconds - QUIET) / PERIOD)
            if 0 <= number < rounds:
                self.rounds[number].append(answer.seconds)

    def slower(self, than: float) -> Spread:
        return spread([sum(one > than for one in seconds) for seconds in self.rounds])

    def quantile(self, share: float) -> Spread:
        """In milliseconds."""
        return spread([percentile(seconds, share) * 1000 for seconds in self.rounds])


def _expiries(session: Session, peers: list[Peer]) -> dict[Peer, _Found]:
    with session.serving_apart(peers, TTL=str(TTL), LOADER=str(LOADER)) as serving:
        for item in ("1000-0", ITEM):  # code and connections are warm before the item is there
            for peer, (application, _) in serving.items():
                load.run(load.fetch_all(application.port, [peer.url_path(item)]))
        before = {peer: application.calls() for peer, (application, _) in serving.items()}
        seconds = QUIET + session.rounds * PERIOD
        samples = load.run(steadily(serving, [ITEM], rate=RATE, seconds=seconds))
        return {
            peer: _Found(sample, session.rounds, application.calls() - before[peer])
            for (peer, (application, _)), sample in zip(serving.items(), samples, strict=True)
        }
