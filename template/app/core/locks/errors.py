"""What can go wrong with a lock, as seen by the code that uses it."""


class LockError(Exception):
    """The base of everything this package raises, except ValueError for wrong arguments."""


class LockTimeout(LockError):
    """The lock did not become ours within the timeout."""


class LockUnavailable(LockTimeout):
    """The lock could not be asked for: the servers (or a majority of them) did not answer.

    Or they refuse all locks for a while, because they have lost their memory of those that are
    held; or they refuse what locks need; or so many other commands of this process were before it
    that its time was up. The error of the last attempt, if there was one, is the `__cause__`.
    """


class LockLost(LockError):
    """The lock was ours and is no longer, or may not be: stop, and write nothing more.

    `cause` says why: "gone" (the server no longer knows us), "unreachable" (no renewal got through
    in time), "expired" (nobody renewed the lease, or this process stood still), "max_hold" (held
    for longer than allowed), "closed" (shutdown) or "released".
    """

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"the lock {name!r} is lost: {cause}")
        self.name = name
        self.cause = cause


class LockReentered(LockError, RuntimeError):
    """A task asked for a lock that it holds already: it would wait for itself."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this task already holds the lock {name!r}; a nested hold would wait for itself"
        )
