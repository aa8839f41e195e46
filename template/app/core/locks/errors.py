"""The errors of locks, as the code that uses them sees them."""


class LockError(Exception):
    """The base of all errors of this package, except ValueError for wrong arguments."""


class LockTimeout(LockError):
    """The lock was not granted within the timeout."""


class LockUnavailable(LockTimeout):
    """The lock could not be asked for: the server, or a majority of the servers, did not answer.

    Or it refuses all locks until those that it may have forgotten have expired, or it denies a
    command that locks need, or other commands of this process were queued ahead until the timeout.
    The error of the last attempt, if there was one, is the `__cause__`.
    """


class LockLost(LockError):
    """The lock is no longer held, or may not be: stop, and write nothing more.

    `cause` says why: "gone" (the server does not have the claim any more), "unreachable" (no
    renewal succeeded in time), "expired" (nobody renewed the lease, or this process was suspended),
    "max_hold" (held for longer than allowed), "closed" (shutdown) or "released".
    """

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"the lock {name!r} is lost: {cause}")
        self.name = name
        self.cause = cause


class LockReentered(LockError, RuntimeError):
    """A task asked for a lock that it already holds: it would wait for itself."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this task already holds the lock {name!r}; a nested hold would wait for itself"
        )
