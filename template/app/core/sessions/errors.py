"""What can go wrong with a session, as seen by the code that uses it.

If Redis is away, its own errors are raised: see `is_transient` of `app.core.redis`.
"""

from fastapi import HTTPException


class SessionError(Exception):
    """The base of everything this package raises, except ValueError for wrong arguments."""


class SessionConflict(SessionError, HTTPException):
    """Two requests gave the same key of a session different values, and this one came second.

    None of its changes are kept. If it is not handled, the answer is 409.
    """

    def __init__(self) -> None:
        super().__init__(409, "another request changed the same data of the session: try again")


class SessionEnded(SessionError, HTTPException):
    """The session ended while the request was answered: logged out, expired, or given another id.

    What is gone is never written again, so none of the changes are kept. If it is not handled, the
    answer is 401.
    """

    def __init__(self) -> None:
        super().__init__(401, "the session has ended: log in again")


class SessionTooLarge(SessionError):
    """The data of a session is larger than allowed; what is in Redis stays as it was."""
