"""One task's wait for a lock, once it is its turn among the tasks of this process."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from app.core.locks import metrics
from app.core.locks.errors import LockTimeout, LockUnavailable
from app.core.locks.lease import Lease
from app.core.locks.node import NodeError
from app.core.locks.store import Reason, Refused
from app.core.redis import advice, is_refusal

_POLL = 0.1
"""Seconds between attempts while releases cannot be heard."""
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25
_JITTER = 0.02


async def contend(
    name: str,
    *,
    attempt: Callable[[], Awaitable[Lease | Refused]],
    held_here: Callable[[], Lease | None],
    listen: Callable[[], bool],
    woken: asyncio.Event,
    deadline: float,
) -> Lease:
    """Attempt until the lock is ours: when woken, or when whoever holds it must have lost it.

    Args:
        name: of the lock, for messages.
        attempt: asks the servers.
        held_here: the lease of another task of this process, which saves asking the servers.
        listen: makes sure that releases are heard; False while they may go unheard.
        woken: set whenever a release may have happened.
        deadline: by `time.monotonic()`; one last attempt is made then.

    Raises:
        LockTimeout: the deadline passed.
        LockUnavailable: it passed without an answer, or the servers refuse to talk to us, or
            they refuse all locks for a while because they have lost their memory.
    """
    began_waiting: float | None = None
    failures = 0
    while True:
        woken.clear()
        error: BaseException | None = None
        forgetful = False
        heeds_wakeups = True
        holder = held_here()
        if holder is not None and holder.remaining() > 0:
            # Its renewals move this on; the end of the block wakes us.
            pause = holder.remaining() + random.uniform(0, _JITTER)
        else:
            try:
                answer = await attempt()
            except NodeError as failure:
                if is_refusal(failure):
                    raise _refused(name, failure) from failure
                error = failure
                failures += 1
                pause = _backoff(failures)
            else:
                if isinstance(answer, Lease):
                    if began_waiting is not None:
                        metrics.wait_seconds.observe(time.monotonic() - began_waiting)
                    return answer
                failures = failures + 1 if answer.reason is Reason.SPLIT else 0
                forgetful = answer.reason is Reason.QUARANTINE
                # Whoever splits the votes must not try again together.
                heeds_wakeups = answer.reason is not Reason.SPLIT
                pause = _pause(answer, failures, listen)
        now = time.monotonic()
        began_waiting = began_waiting or now
        if now >= deadline:
            raise _timed_out(name, error, forgetful) from error
        await _sleep(min(pause, deadline - now), woken if heeds_wakeups else None)


def _pause(refusal: Refused, failures: int, listen: Callable[[], bool]) -> float:
    if refusal.reason is Reason.SPLIT:
        return _backoff(failures)
    pause = refusal.retry_after + random.uniform(0, _JITTER)
    if refusal.reason is Reason.HELD and not listen():
        return min(pause, _POLL * random.uniform(0.5, 1.5))
    return pause


def _backoff(failures: int) -> float:
    longest: float = min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
    return random.uniform(longest / 4, longest)


async def _sleep(seconds: float, woken: asyncio.Event | None) -> None:
    if woken is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return


def _refused(name: str, refusal: Exception) -> LockUnavailable:
    what_to_do = advice(refusal)
    return LockUnavailable(
        f"not allowed to lock {name!r}: {refusal}" + (f" ({what_to_do})" if what_to_do else "")
    )


def _timed_out(name: str, error: BaseException | None, forgetful: bool) -> LockTimeout:
    if forgetful:
        return LockUnavailable(
            f"the server that keeps the lock {name!r} has lost its memory, and waits until every "
            "lock that it forgot has run out"
        )
    if error is None:
        return LockTimeout(f"somebody else still holds the lock {name!r}")
    return LockUnavailable(f"nobody answers for the lock {name!r}: {error}")
