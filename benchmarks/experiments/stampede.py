"""A cold key that 200 clients want at once, over one, two and four processes."""

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

from benchmarks import load
from benchmarks.figures import milliseconds, percentile, shown, spread, verdict
from benchmarks.peers import NO_CACHE, ON_REDIS, OURS, Peer
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session

CLIENTS = 200
LOADER = 0.1
PROCESSES = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class _Outcome:
    calls: int
    p99: float
    errors: int


def measure(session: Session) -> Result:
    peers = session.peers(OURS, *ON_REDIS, NO_CACHE)
    processes = (1, 2) if session.quick else PROCESSES
    session.steps(len(peers) * len(processes) * session.rounds)
    found = {peer: _stampedes(session, peer, processes) for peer in peers}
    header = [f"{word}, {n}" for n in processes for word in ("calls", "p99 ms", "errors")]
    rows = []
    for peer, by_processes in found.items():
        cells = []
        for outcomes in by_processes.values():
            cells += [
                shown(spread([one.calls for one in outcomes]).median),
                milliseconds(spread([one.p99 for one in outcomes]).median),
                shown(spread([one.errors for one in outcomes]).median),
            ]
        rows.append((peer.name, *cells))
    most = processes[-1]
    most_of_ours = max(one.calls for one in found[OURS][most])
    reached = verdict(most_of_ours == 1)
    bars = [
        Point(peer.name, calls.median, calls.low, calls.high)
        for peer, by_processes in found.items()
        for calls in [spread([one.calls for one in by_processes[most]])]
    ]
    return Result(
        title="Cold stampede",
        question=f"{CLIENTS} clients ask at once for an item that nobody has cached, and loading "
        f"it takes {LOADER * 1000:.0f} ms. How often is it loaded? Once would do.",
        tables=(
            Table(
                "Loader calls, slowest answers and failures, by number of processes",
                ("", *header),
                tuple(rows),
            ),
            Table(
                "Targets",
                ("", "target", "found", ""),
                ((f"ours: loads over {most} processes", "1", shown(most_of_ours), reached),),
            ),
        ),
        charts=(
            Chart(
                "stampede",
                f"{CLIENTS} cold requests over {most} processes",
                "bars",
                "",
                "loader calls",
                {"": tuple(sorted(bars, key=lambda point: -point.median))},
                log_y=True,
            ),
        ),
        rounds=session.rounds,
    )


def _stampedes(
    session: Session, peer: Peer, processes: tuple[int, ...]
) -> dict[int, list[_Outcome]]:
    keys = count()
    clients = 20 if session.quick else CLIENTS
    calls = session.folder / f"{peer.module}-{peer.variables.get('VARIANT', '')}.calls"
    outcomes: dict[int, list[_Outcome]] = {number: [] for number in processes}
    with ExitStack() as stack:
        redis = stack.enter_context(session.redis())
        applications = [
            stack.enter_context(session.serve(peer, redis.url, calls=calls, LOADER=str(LOADER)))
            for _ in range(processes[-1])
        ]
        ports = [application.port for application in applications]
        for port in ports:  # connections and code are warm, the key is not
            load.run(load.fetch_all(port, [peer.url_path(f"100-{next(keys)}") for _ in range(3)]))
        for _ in range(session.rounds):
            for number in processes:
                session.step(f"{peer.name}, {number} processes")
                before = applications[0].calls()
                sample = load.run(
                    load.burst(
                        ports[:number], peer.url_path(f"1000-{next(keys)}"), requests=clients
                    )
                )
                outcomes[number].append(
                    _Outcome(
                        applications[0].calls() - before,
                        percentile(sample.seconds, 0.99),
                        sample.errors,
                    )
                )
    return outcomes
