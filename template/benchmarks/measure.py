"""The three things that are measured: routes, a stampede, an outage."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from redis import Redis

from benchmarks.client import Answer, at_once, in_turn, per_second, steadily
from benchmarks.server import Service
from devservers.valkey import EmbeddedValkey

CONNECTIONS = 16
CLIENTS = 100
PASS = 1.0
"""Seconds, about, in which the paths of a route are asked for once."""
RATE = 100
"""Requests per second during the outage."""


class Unanswered(Exception):
    """A request that is to be measured was not answered with 200."""


@dataclass(frozen=True, slots=True)
class Route:
    """Medians of the rounds; in each of them the cached and the uncached service took turns."""

    path: str
    without: float
    """Seconds of a request that computes its answer, with nobody else asking."""
    miss: float
    """The same with the cache, which has nothing: computed and stored."""
    hit: float
    without_rate: float
    """Requests per second on `CONNECTIONS` connections."""
    hit_rate: float


@dataclass(frozen=True, slots=True)
class Stampede:
    """`CLIENTS` at once want an entry that is not there, over two processes."""

    loads: int
    slowest: float
    without_slowest: float


@dataclass(frozen=True, slots=True)
class Outage:
    """What came of a steady load while Redis was frozen, then killed."""

    answers: Sequence[Answer]
    frozen: tuple[float, float]
    """From and to, in seconds from the start."""
    killed: tuple[float, float]

    @property
    def failed(self) -> int:
        return sum(not answer.good for answer in self.answers)

    @property
    def slowest(self) -> float:
        return max(answer.seconds for answer in self.answers)


async def route(
    path: str,
    paths: Sequence[str],
    headers: Mapping[str, str],
    *,
    cached: Service,
    uncached: Service,
    redis: EmbeddedValkey,
    rounds: int,
    seconds: float,
) -> Route:
    """Measure one route.

    Raises:
        Unanswered: one of `paths` is not answered with 200.
    """
    without: list[float] = []
    miss: list[float] = []
    hit: list[float] = []
    without_rate: list[float] = []
    hit_rate: list[float] = []
    # Its connections to the database are open afterwards, and a slow one is asked for less.
    began = time.perf_counter()
    slowest = await _typical(uncached, paths[:5], headers)
    slowest = max(slowest, (time.perf_counter() - began) / 5)
    paths = paths[: max(5, int(PASS / slowest))]
    for _ in range(rounds):
        without.append(await _typical(uncached, paths, headers))
        _empty(redis)
        miss.append(await _typical(cached, paths, headers))
        hit.append(await _typical(cached, paths, headers))
        for service, rates in ((uncached, without_rate), (cached, hit_rate)):
            rates.append(
                await per_second(
                    service.port, paths, headers, connections=CONNECTIONS, seconds=seconds
                )
            )
    return Route(
        path, median(without), median(miss), median(hit), median(without_rate), median(hit_rate)
    )


async def stampede(
    path: str,
    headers: Mapping[str, str],
    *,
    cached: Sequence[Service],
    uncached: Sequence[Service],
    redis: EmbeddedValkey,
) -> Stampede:
    """Count the loads of one."""
    slowest = []
    loads = 0
    for services in (uncached, cached):
        _empty(redis)
        before = sum(service.loads() for service in services)
        ports = [service.port for service in services]
        answers = await at_once(ports, path, headers, requests=CLIENTS)
        loads = sum(service.loads() for service in services) - before
        slowest.append(max(answer.seconds for answer in answers))
    return Stampede(loads, slowest[1], slowest[0])


async def outage(
    paths: Sequence[str],
    headers: Mapping[str, str],
    *,
    cached: Service,
    redis: EmbeddedValkey,
    phase: float,
) -> Outage:
    """Freeze Redis and thaw it, kill it and start it again; each phase takes `phase` seconds."""

    async def accidents() -> None:
        for happens in (redis.freeze, redis.thaw, redis.kill, redis.restart):
            await asyncio.sleep(phase)
            await asyncio.to_thread(happens)

    await in_turn(cached.port, paths, headers)
    happening = asyncio.create_task(accidents())
    answers = await steadily(cached.port, paths, headers, rate=RATE, seconds=5 * phase)
    await happening
    return Outage(answers, (phase, 2 * phase), (3 * phase, 4 * phase))


async def _typical(service: Service, paths: Sequence[str], headers: Mapping[str, str]) -> float:
    answers = await in_turn(service.port, paths, headers)
    for asked, answer in zip(paths, answers, strict=True):
        if not answer.good:
            raise Unanswered(
                f"GET {asked} was answered with {answer.status or 'nothing'}: see "
                "benchmarks/traffic.py"
            )
    return median(answer.seconds for answer in answers)


def _empty(redis: EmbeddedValkey) -> None:
    with Redis.from_url(redis.url) as client:
        client.flushall()
