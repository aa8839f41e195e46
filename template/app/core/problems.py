"""Errors as clients see them: problem details (RFC 9457), which nothing else makes.

`HTTPException(404, "no such item")` is answered with

    {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such item"}

A problem that programs are to tell from others of its status has a type, and may have more members:
`raise problem(409, "out of stock", type="/problems/out-of-stock", left=3)`.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.utils import is_body_allowed_for_status_code
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

_CHALLENGE = "APIKey"
"""What a 401 asks for that does not say. RFC 9110, 15.5.2, wants a challenge, and a cookie has no
scheme that is registered: this is FastAPI's word for it, and browsers do not ask for a password."""

# As RFC 9110 has them; those of `http` depend on the version of Python.
_TITLES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_MOST_ERRORS = 50
_LONGEST_NAME = 100
_LONGEST_MESSAGE = 500
_IN_FRAGMENT = "!$&'()*+,;=:@?-._~"
"""What the fragment of a URL may hold as it is (RFC 3986, 3.5), but for the slash."""


class ProblemResponse(JSONResponse):
    """Problem details as a response; `answer` makes one."""

    media_type = MEDIA_TYPE


def problem(
    status: int,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> HTTPException:
    """Return an error to raise, which says more than a status.

    Args:
        status: of HTTP, 400 or more.
        detail: what went wrong this time, for people.
        headers: of the answer.
        members: `type`, a URI by which programs know the kind of problem; `title`, a few words on
            that kind; and whatever else there is to say about it, as JSON.
    """
    told = members if detail is None else {**members, "detail": detail}
    return HTTPException(status, told, dict(headers) if headers else None)


def answer(
    status: int,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> ProblemResponse:
    """Make a response, for middleware and handlers; see `problem` for the arguments."""
    more = {"detail": detail} if detail is not None else {}
    return ProblemResponse(_body(status, {**more, **members}), status, headers)


async def answer_http_error(request: Request, error: AnyHTTPException) -> Response:
    """Answer an HTTPException.

    A `detail` that is text is the problem's; an object's members are the problem's, too; a list is
    its `errors`.
    """
    status, headers = error.status_code, dict(error.headers or {})
    if not is_body_allowed_for_status_code(status):
        return Response(status_code=status, headers=headers)
    if status == 401 and not any(name.lower() == "www-authenticate" for name in headers):
        headers["www-authenticate"] = _CHALLENGE
    return ProblemResponse(_body(status, _members(error)), status, headers)


def _members(error: AnyHTTPException) -> Mapping[str, Any]:
    detail: Any = error.detail
    if isinstance(detail, Mapping):
        return detail
    if isinstance(detail, list | tuple):
        return {"errors": detail}
    # Without one, Starlette takes the words of the status: the title has them.
    return {} if detail in (None, "", _phrase(error.status_code)) else {"detail": str(detail)}


def _body(status: int, members: Mapping[str, Any]) -> dict[str, Any]:
    title = _TITLES.get(status) or _phrase(status) or "Error"
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, **members}
    body["status"] = status  # whatever the members say
    return body


def _phrase(status: int) -> str | None:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return None


async def answer_invalid_request(request: Request, error: RequestValidationError) -> Response:
    """Answer 422 with the first 50 mistakes as `errors`.

    Each has `in` (body, path, query, header, cookie), a `pointer` (RFC 6901) to the value in there,
    what is wrong with it as `detail`, and as `type` for programs. Never what the client sent. That
    may be a password, it may be long, and whoever reads the answer, such as a log in between, is
    not who wrote it.
    """
    return answer(422, "the request is not valid", errors=list(_told(error)))


def _told(error: RequestValidationError) -> Iterator[dict[str, Any]]:
    told = set()
    for mistake in error.errors():
        place, *path = mistake["loc"] or ("body",)
        kind, message = mistake["type"], str(mistake["msg"])
        if kind == "union_tag_invalid":  # its words name the tag that was sent
            message = f"Input tag is none of {mistake['ctx']['expected_tags']}"
        if kind == "json_invalid":  # the place is a number of characters
            message, path = f"{message} at character {path[0]}" if path else message, []
        where = str(place), _pointer(path)
        # A dependency that is needed in two places is wrong once.
        if (where, kind, message) in told:
            continue
        told.add((where, kind, message))
        yield {
            "in": where[0],
            "pointer": where[1],
            "detail": _printable(message[:_LONGEST_MESSAGE]),
            "type": kind,
        }
        if len(told) == _MOST_ERRORS:
            return


def _pointer(path: list[str | int]) -> str:
    """Return a JSON pointer as a fragment (RFC 6901, 6)."""
    return "#" + "".join(f"/{_escaped(part)}" for part in path)


def _escaped(part: str | int) -> str:
    name = str(part)
    if len(name) > _LONGEST_NAME:  # keys of an object are what the client has sent
        name = f"{name[:_LONGEST_NAME]}..."
    escaped = name.replace("~", "~0").replace("/", "~1")
    return quote(escaped, safe=_IN_FRAGMENT, errors="backslashreplace")


def _printable(text: str) -> str:
    # Half of a surrogate pair, which JSON can hold, has no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
