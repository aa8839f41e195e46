"""Load what is asked for most anew, as every night: once, however many processes start it.

What `cache.keep_warm` names is loaded in place: callers get the old values until the new ones are
there, and keep them where a load fails. Of processes that are told to do this at the same time one
does it, under a fill lease of the cache. The others wait, go on if it is killed, and find in the
cache that it is done.
"""

import argparse
from datetime import UTC, datetime

from pydantic import BaseModel

from app.core.cache import Cache, Kept, keep
from app.core.service import Service

_LONGEST_SECONDS = 3600.0
_AGAIN_AFTER_FAILURE_SECONDS = 60.0


class LastRun(BaseModel):
    """When it was done, and how it went."""

    at: datetime
    loaded: int
    failed: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what one may want differently."""
    parser.add_argument(
        "--every",
        type=float,
        default=12,
        metavar="HOURS",
        help="do nothing if it was done less than so many hours ago (default: 12)",
    )
    parser.add_argument("--again", action="store_true", help="do it even so")


async def run(service: Service, arguments: argparse.Namespace) -> int:
    """Return 1 if something could not be loaded."""
    cache = service.find(Cache)
    if not cache.is_enabled:
        print("the cache is switched off: there is nothing to refresh")
        return 0
    runs = cache.policy(
        "refresh-runs",
        LastRun,
        ttl=arguments.every * 3600,
        jitter=0,
        early_refresh=0,
        loader_timeout=_LONGEST_SECONDS,
        lease_wait=_LONGEST_SECONDS,
    )
    is_done_here = False

    async def refresh() -> Kept[LastRun]:
        nonlocal is_done_here
        is_done_here = True
        report = await cache.refresh()
        done = LastRun(at=datetime.now(UTC), loaded=report.loaded, failed=report.failed)
        return keep(done, ttl=_AGAIN_AFTER_FAILURE_SECONDS if report.failed else None)

    if arguments.again:
        await runs.invalidate("hottest")
    last = await runs.get_or_load("hottest", refresh)
    await cache.check()  # without Redis, everything was loaded for nothing
    print(f"at={last.at:%Y-%m-%dT%H:%M:%SZ} loaded={last.loaded} failed={last.failed}", end="")
    print("" if is_done_here else " (by another process)")
    return 1 if is_done_here and last.failed else 0
