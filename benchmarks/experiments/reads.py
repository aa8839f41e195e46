"""Reads inside one process, without HTTP: batched reads beside redis-py and redis-benchmark."""

import csv
import shutil
import subprocess

from benchmarks import cores
from benchmarks.figures import interleaved, ratios, verdict
from benchmarks.peers import SERVICE
from benchmarks.results import Chart, Point, Result, Table
from benchmarks.session import Session
from benchmarks.workers import working

READERS = (1, 10, 64, 256, 1000)
CEILING_CLIENTS = 64
READS = {
    "batched": "ours, batched read",
    "hit": "ours, cache hit into a model",
    "tagged hit": "ours, cache hit, 3 tags",
}
PIPELINES = {"redis-benchmark -P 1": 1, "redis-benchmark -P 16": 16}
TARGETS = {
    ("redis.asyncio GET", 64): 9,
    ("redis.asyncio GET", 1): 0.9,
    ("redis-benchmark -P 1", 64): 1.8,
}


def measure(session: Session) -> Result:
    """The worker has the application's core, also redis-benchmark, and Redis the other one."""
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    steps = (1, 10) if session.quick else READERS
    ceilings = PIPELINES if program else {}
    session.steps(session.rounds * ((len(READS) + 1) * len(steps) + len(ceilings)))
    session.used.add(SERVICE.name)
    session.folder.mkdir(parents=True, exist_ok=True)
    with (
        session.redis() as redis,
        working(
            session.environments, SERVICE, "read_worker.py", [redis.url], session.folder / "log"
        ) as worker,
    ):

        def rate(contestant: tuple[str, int]) -> float:
            name, readers = contestant
            session.step(f"{name}, {readers} readers")
            if program is not None and name in PIPELINES:
                requests = 1_000 if session.quick else 20_000 * PIPELINES[name]
                return _redis_benchmark(program, redis.port, PIPELINES[name], requests)
            seconds = session.seconds(0.25)
            return float(worker.ask(read=name, readers=readers, seconds=seconds))

        contestants = [(name, readers) for name in ("get", *READS) for readers in steps]
        contestants += [(name, CEILING_CLIENTS) for name in ceilings]
        rates = interleaved(session.rounds, contestants, rate)
    found = {
        (name, readers): ratios(rates[name, readers], rates["get", readers])
        for name in READS
        for readers in steps
    }
    most = CEILING_CLIENTS if CEILING_CLIENTS in steps else steps[-1]
    against = [
        (title, *(str(ratios(rates[name, most], rates[of, CEILING_CLIENTS])) for of in ceilings))
        for name, title in {"get": "redis.asyncio GET", **READS}.items()
    ]
    tables = [
        Table(
            "Reads per second / those of redis.asyncio GET, by readers",
            ("", *map(str, steps)),
            tuple(
                (title, *(str(found[name, readers]) for readers in steps))
                for name, title in READS.items()
            ),
        )
    ]
    if ceilings:
        tables.append(
            Table(
                f"{most} readers / redis-benchmark GET with {CEILING_CLIENTS} connections",
                ("", *ceilings),
                tuple(against),
            )
        )
    reached = []
    for (other, readers), target in TARGETS.items():
        base = ("get", readers) if other == "redis.asyncio GET" else (other, CEILING_CLIENTS)
        if base in rates and ("batched", readers) in rates:
            ratio = ratios(rates["batched", readers], rates[base])
            what = f"batched read / {other}, {readers} readers"
            reached.append((what, f"{target:g}", str(ratio), verdict(ratio.median >= target)))
    tables.append(Table("Targets", ("ratio", "target", "found", ""), tuple(reached)))
    return Result(
        title="Reads in one process",
        question="What does it cost to read 1 KB from Redis, without HTTP? Many readers of one "
        "process share a command."
        + ("" if ceilings else " redis-benchmark is not installed here, so that is left out."),
        tables=tuple(tables),
        charts=(
            Chart(
                "reads",
                "Reads by readers (redis.asyncio GET = 1)",
                "lines",
                "readers in one process",
                "reads per second / redis.asyncio GET",
                {
                    title: tuple(
                        Point(readers, ratio.median, ratio.low, ratio.high)
                        for readers in steps
                        for ratio in [found[name, readers]]
                    )
                    for name, title in READS.items()
                },
                log_x=True,
            ),
        ),
        rounds=session.rounds,
    )


def _redis_benchmark(program: str, port: int, pipeline: int, requests: int) -> float:
    """GETs per second of the key that the worker has written."""
    command = [program, "-h", "127.0.0.1", "-p", str(port), "-c", str(CEILING_CLIENTS)]
    command += ["-P", str(pipeline), "-n", str(requests), "--csv", "GET", "plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    cores.to_the_application(process.pid)
    output, _ = process.communicate(timeout=60)
    [row] = csv.DictReader(output.splitlines())
    return float(row["rps"])
