"""Measure what the cache brings to this service.

    python -m benchmarks            in about a minute
    python -m benchmarks --quick    in a few seconds, to see that it works

Starts servers of its own on this machine, whatever REDIS_URL and DATABASE_URL say, and throws
them away afterwards. What is asked for is in benchmarks/traffic.py.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import httpx2

from app.settings import Settings
from benchmarks import measure, picture, traffic, verdict
from benchmarks.routes import cached_paths
from benchmarks.server import Service, ServiceFailed, running
from devservers.environment import PREPARATIONS, environment, own_valkey
from devservers.guard import ServerUnavailable
from devservers.valkey import EmbeddedValkey

LONGEST = 600
"""Seconds after which it gives up."""
PICTURE = Path(__file__).with_name("results.svg")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.output.parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        _run(options.output, quick=options.quick)
    except (ServerUnavailable, ServiceFailed, measure.Unanswered) as error:
        print(error, file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"given up after {LONGEST} s: is this machine that busy?", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode  # the command has said what is wrong
    except KeyboardInterrupt:
        return 130
    return 0


def _run(output: Path, *, quick: bool) -> None:
    started = time.monotonic()
    with ExitStack() as stack:
        os.environ["ENVIRONMENT"] = "test"  # not what a developer's .env says
        redis = stack.enter_context(own_valkey())
        # Never the servers that somebody works with: these are emptied, frozen and killed.
        os.environ["REDIS_URL"] = redis.url
        for name in Settings.model_fields:
            if name.endswith(("_url", "_urls")) and name != "redis_url":
                os.environ.pop(name.upper(), None)
        variables = stack.enter_context(environment())
        # The outage need not be told at length.
        os.environ |= {
            **variables,
            "REDIS_URL": redis.url,  # also where DEVSERVERS asked for another one
            "LOG_LEVEL": "ERROR",
        }
        for command in PREPARATIONS:
            subprocess.run(command, check=True)
        cached = stack.enter_context(running(2))
        uncached = stack.enter_context(running(2, cached=False))
        measuring = asyncio.wait_for(_measure(cached, uncached, redis, quick=quick), LONGEST)
        routes, stampede, outage = asyncio.run(measuring)
    output.write_text(picture.draw(routes, outage), "utf-8")
    _say(f"done in {time.monotonic() - started:.0f} s")
    print(f"\n{verdict.table(routes)}\n\n{verdict.events(stampede, outage)}\n")
    print(f"{verdict.sentence(routes)}\n\n{output} shows it.")


async def _measure(
    cached: list[Service], uncached: list[Service], redis: EmbeddedValkey, *, quick: bool
) -> tuple[list[measure.Route], measure.Stampede, measure.Outage]:
    _say("traffic: filling the database")
    async with httpx2.AsyncClient(
        base_url=uncached[0].url, headers=traffic.HEADERS, trust_env=False
    ) as client:
        paths = await traffic.paths(client)
    if not paths:
        raise ServiceFailed("nothing is measured: add your cached routes to benchmarks/traffic.py")
    from app.main import app  # which reads the environment

    for path in cached_paths(app):
        if path not in paths:
            _say(f"GET {path} is cached and not measured: add it to benchmarks/traffic.py")
    routes = []
    for path, requests in paths.items():
        _say(f"route: GET {path}")
        routes.append(
            await measure.route(
                path,
                requests,
                traffic.HEADERS,
                cached=cached[0],
                uncached=uncached[0],
                redis=redis,
                rounds=1 if quick else 7,
                seconds=0.1 if quick else 0.5,
            )
        )
    requests = next(iter(paths.values()))
    _say("stampede")
    stampede = await measure.stampede(
        requests[0], traffic.HEADERS, cached=cached, uncached=uncached, redis=redis
    )
    _say("outage: Redis is frozen, then killed")
    outage = await measure.outage(
        requests, traffic.HEADERS, cached=cached[0], redis=redis, phase=0.4 if quick else 2
    )
    return routes, stampede, outage


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    # As an exception, so that what was started is stopped.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
