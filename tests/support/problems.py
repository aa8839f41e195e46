"""What every error has in common."""

from typing import Any

import httpx2

SAID = {"type", "title", "status", "detail"}
"""The members of problem details that RFC 9457 knows and we have."""


def problem_of(answer: httpx2.Response) -> dict[str, Any]:
    """Return the problem details of an error, which are complete and fit the response."""
    assert answer.headers.get_list("content-type") == ["application/problem+json"], answer.text
    told = answer.json()
    assert isinstance(told, dict)
    assert told["status"] == answer.status_code
    for name in ("type", "title"):
        assert isinstance(told[name], str)
        assert told[name] != ""
    assert told.get("detail", "x")
    assert isinstance(told.get("detail", ""), str)
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] != ""
    return told
