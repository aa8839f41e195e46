"""Locks beside those of redis-py and pottery: alone, contended, and with dead nodes."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

from redis import Redis

from benchmarks.figures import interleaved, milliseconds, percentile, ratios, spread
from benchmarks.peers import POTTERY, SERVICE, Environment
from benchmarks.results import Result, Table
from benchmarks.session import Session
from benchmarks.workers import Worker, working
from devservers.valkey import EmbeddedValkey

_NODES = 5
_PROCESSES, _TASKS, _TURNS = 2, 10, 2
_MOST = 1.0
"""Seconds of a round after which no lock is taken any more: some take seconds without a node."""
# Commands that are messages. The server also counts those that a script calls: ours sets inside of
# scripts, the others take their locks with SET itself.
_SCRIPTED = ("evalsha", "eval", "subscribe", "unsubscribe", "ping")
_PLAIN = ("set", *_SCRIPTED)


@dataclass(frozen=True, slots=True, eq=False)
class Strategy:
    name: str
    library: str
    environment: Environment
    nodes: int
    messages: tuple[str, ...]


LUA = Strategy("ours, lua", "ours", SERVICE, 1, _SCRIPTED)
REDLOCK = Strategy("ours, redlock, 5 nodes", "ours", SERVICE, _NODES, _SCRIPTED)
REDIS_PY = Strategy("redis-py Lock", "redis-py", SERVICE, 1, _PLAIN)
POTTERY_ONE = Strategy("pottery, 1 node", "pottery", POTTERY, 1, _PLAIN)
POTTERY_FIVE = Strategy("pottery, 5 nodes", "pottery", POTTERY, _NODES, _PLAIN)


def measure(session: Session) -> Result:
    strategies = [LUA, REDIS_PY, REDLOCK]
    if not session.quick:
        strategies += [POTTERY_ONE, POTTERY_FIVE]
    quorums = [strategy for strategy in strategies if strategy.nodes > 1]
    session.steps((2 * len(strategies) + 2 * len(quorums)) * session.rounds)
    session.used.update(strategy.environment.name for strategy in strategies)
    session.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedValkey()) for _ in range(_NODES)]
        urls = [server.url for server in servers]

        def workers(strategy: Strategy) -> list[Worker]:
            log = session.folder / f"{strategy.name}.log"
            return [
                stack.enter_context(
                    working(
                        session.environments,
                        strategy.environment,
                        "lock_worker.py",
                        [strategy.library, *urls[: strategy.nodes]],
                        log,
                    )
                )
                for _ in range(_PROCESSES)
            ]

        crews = {strategy: workers(strategy) for strategy in strategies}

        def alone(strategy: Strategy) -> float:
            session.step(f"{strategy.name}, alone")
            return _typical(crews[strategy][0], 10 if session.quick else 150)

        def contended(strategy: Strategy) -> _HandOffs:
            session.step(f"{strategy.name}, contended")
            return _hand_offs(strategy, crews[strategy], urls)

        def some(strategy: Strategy) -> float:
            session.step(f"{strategy.name}, quorum")
            return _typical(crews[strategy][0], 10)

        for strategy in strategies:
            _typical(crews[strategy][0], 10)
        times = interleaved(session.rounds, strategies, alone)
        handed = interleaved(session.rounds, strategies, contended)
        healthy = interleaved(session.rounds, quorums, some)
        servers[-1].kill()
        servers[-2].freeze()
        try:
            degraded = interleaved(session.rounds, quorums, some)
        finally:
            servers[-2].thaw()
    rows = [
        (
            strategy.name,
            milliseconds(spread(times[strategy]).median),
            str(ratios(times[strategy], times[REDIS_PY])),
            *(
                str(spread([percentile(one.seconds, share) * 1000 for one in handed[strategy]]))
                for share in (0.5, 0.95)
            ),
            str(spread([one.messages for one in handed[strategy]])),
        )
        for strategy in strategies
    ]
    return Result(
        title="Locks",
        question="What does a lock cost that nobody else wants, and how soon has the next one it "
        f"when {_PROCESSES * _TASKS} tasks of {_PROCESSES} processes want it?",
        tables=(
            Table(
                "Acquire and release, and the hand-off from one task to another",
                (
                    "",
                    "alone, ms",
                    "alone / redis-py",
                    "hand-off p50, ms",
                    "hand-off p95, ms",
                    "messages per turn",
                ),
                tuple(rows),
            ),
            Table(
                "Quorum with one of five nodes killed and one frozen",
                ("", "all there, ms", "two gone, ms", "ratio"),
                tuple(
                    (
                        strategy.name,
                        milliseconds(spread(healthy[strategy]).median),
                        milliseconds(spread(gone).median),
                        str(ratios(gone, healthy[strategy])),
                    )
                    for strategy, gone in degraded.items()
                ),
            ),
        ),
        rounds=session.rounds,
    )


@dataclass(frozen=True, slots=True)
class _HandOffs:
    seconds: list[float]
    """From the end of one task's work to the beginning of another's."""
    messages: float
    """Commands that clients sent, per turn."""


def _typical(worker: Worker, runs: int) -> float:
    """Seconds to acquire and release a lock that nobody else wants."""
    return percentile(worker.ask(do="alone", runs=runs, most=_MOST), 0.5)


def _hand_offs(strategy: Strategy, workers: Sequence[Worker], urls: Sequence[str]) -> _HandOffs:
    nodes = urls[: strategy.nodes]
    before = _count(strategy.messages, nodes)
    for worker in workers:
        worker.tell(do="contend", tasks=_TASKS, turns=_TURNS)
    periods = sorted(period for worker in workers for period in worker.answer())
    messages = (_count(strategy.messages, nodes) - before) / len(periods)
    busiest = periods[len(periods) // 10 : -len(periods) // 10]  # while all compete
    return _HandOffs(
        [
            began - ended
            for (_, ended, one), (began, _, other) in pairwise(busiest)
            # Who takes the lock again before anybody saw it released has handed nothing off.
            if one != other
        ],
        messages,
    )


def _count(commands: Sequence[str], urls: Sequence[str]) -> int:
    """How often all servers together have been sent one of these commands."""
    calls = 0
    for url in urls:
        with Redis.from_url(url) as client:
            seen = client.info("commandstats")
            calls += sum(seen.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands)
    return calls
