"""Which core does what: the application has one for itself, all else shares another one."""

import os


def _allowed() -> list[int]:
    # macOS has no such call, and processes cannot be pinned there.
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


_CORES = _allowed()
APPLICATION: int | None = _CORES[0] if len(_CORES) > 1 else None
"""The core of the application; None: nothing is pinned here."""


def use_the_other_one() -> None:
    """Pin this process, and the servers that it will start, to the core of load and Redis."""
    if len(_CORES) > 1:
        os.sched_setaffinity(0, {_CORES[1]})


def to_the_application(pid: int) -> None:
    """Pin another process to the core of the application."""
    if APPLICATION is not None:
        os.sched_setaffinity(pid, {APPLICATION})


def described() -> str:
    if APPLICATION is None:
        return "nothing is pinned to a core: the ratios are those of processes that share them"
    return "the application alone on one core, load generator and Redis on another one"
