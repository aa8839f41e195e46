"""Locks beside those of redis-py and pottery: alone, contended, and with dead nodes."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

from redis import Redis

from benchmarks.figures import interleaved, milliseconds, percentile, ratios, shown, spread
from benchmarks.peers import POTTERY, SERVICE, Environment
from benchmarks.results import Result, Table
from benchmarks.session import Session
from benchmarks.workers import Worker, working
from devservers.valkey import EmbeddedValkey

_NODES = 5
_PROCESSES, _TASKS = 2, 10
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
    session.steps(len(strategies) * (session.rounds + 1) + len(quorums))
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
            runs = 10 if session.quick else 150
            return percentile(crews[strategy][0].ask(do="alone", runs=runs), 0.5)

        for strategy in strategies:
            crews[strategy][0].ask(do="alone", runs=10)
        times = interleaved(session.rounds, strategies, alone)
        handed = {strategy: _hand_offs(session, strategy, crews, urls) for strategy in strategies}
        degraded = _minority_gone(session, quorums, crews, servers)
    rows = [
        (
            strategy.name,
            milliseconds(spread(times[strategy]).median),
            str(ratios(times[strategy], times[REDIS_PY])),
            milliseconds(percentile(handed[strategy].seconds, 0.5)),
            milliseconds(percentile(handed[strategy].seconds, 0.95)),
            shown(handed[strategy].messages),
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
                        milliseconds(healthy),
                        milliseconds(gone),
                        shown(gone / healthy),
                    )
                    for strategy, (healthy, gone) in degraded.items()
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


def _hand_offs(
    session: Session, strategy: Strategy, crews: dict[Strategy, list[Worker]], urls: Sequence[str]
) -> _HandOffs:
    session.step(f"{strategy.name}, contended")
    turns = 2 if session.quick else 8
    nodes = urls[: strategy.nodes]
    before = _count(strategy.messages, nodes)
    for worker in crews[strategy]:
        worker.tell(do="contend", tasks=_TASKS, turns=turns)
    periods = sorted(period for worker in crews[strategy] for period in worker.answer())
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


def _minority_gone(
    session: Session,
    quorums: Sequence[Strategy],
    crews: dict[Strategy, list[Worker]],
    servers: Sequence[EmbeddedValkey],
) -> dict[Strategy, tuple[float, float]]:
    """Median seconds to acquire and release, before and after."""
    runs = 5 if session.quick else 60

    def typical(strategy: Strategy) -> float:
        return percentile(crews[strategy][0].ask(do="alone", runs=runs), 0.5)

    healthy = {strategy: typical(strategy) for strategy in quorums}
    servers[-1].kill()
    servers[-2].freeze()
    try:
        found = {}
        for strategy in quorums:
            session.step(f"{strategy.name}, two nodes gone")
            found[strategy] = (healthy[strategy], typical(strategy))
        return found
    finally:
        servers[-2].thaw()


def _count(commands: Sequence[str], urls: Sequence[str]) -> int:
    """How often all servers together have been sent one of these commands."""
    calls = 0
    for url in urls:
        with Redis.from_url(url) as client:
            seen = client.info("commandstats")
            calls += sum(seen.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands)
    return calls
