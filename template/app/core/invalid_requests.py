"""What a client is told of a request that is not valid: where, what kind, and why.

Never what it sent. That may be a password, it may be long, and whoever reads the answer, such as a
log in between, is not who wrote it.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

_MOST_ERRORS = 50
_LONGEST_NAME = 100
_LONGEST_MESSAGE = 500


async def answer_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    """For `RequestValidationError`: 422, with `loc`, `type` and `msg` of the first 50 mistakes."""
    return JSONResponse({"detail": list(_told(error))}, 422)


def _told(error: RequestValidationError) -> Iterator[dict[str, Any]]:
    told = set()
    for mistake in error.errors():
        loc = tuple(_short(part) for part in mistake["loc"])
        kind, message = mistake["type"], str(mistake["msg"])
        if kind == "union_tag_invalid":  # its words name the tag that was sent
            message = f"Input tag is none of {mistake['ctx']['expected_tags']}"
        # A dependency that is needed in two places is wrong once.
        if (loc, kind, message) in told:
            continue
        told.add((loc, kind, message))
        yield {"type": kind, "loc": loc, "msg": _printable(message[:_LONGEST_MESSAGE])}
        if len(told) == _MOST_ERRORS:
            return


def _short(part: str | int) -> str | int:
    """A part of a place; the keys of an object are what the client has sent."""
    if isinstance(part, int):
        return part
    return _printable(part if len(part) <= _LONGEST_NAME else f"{part[:_LONGEST_NAME]}...")


def _printable(text: str) -> str:
    # Half of a surrogate pair, which JSON can hold, has no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
