"""What a session holds: who is logged in, and the service's own data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json

Data = dict[str, JsonValue]

_NOTHING: Any = object()


class Unreadable(Exception):
    """Bytes that are no content of a session, or that of another version of this code."""


@dataclass(frozen=True, slots=True)
class Content:
    """`user` is None as long as nobody is logged in."""

    user: str | None
    data: Data

    def to_bytes(self) -> bytes:
        """The same bytes for the same content.

        Raises:
            TypeError: a value is not JSON.
        """
        try:
            return json.dumps(
                [self.user, self.data],
                separators=(",", ":"),
                ensure_ascii=False,
                allow_nan=False,
                sort_keys=True,
            ).encode()
        except (TypeError, ValueError) as error:
            raise TypeError(f"the data of a session has to be JSON: {error}") from error

    @classmethod
    def from_bytes(cls, plain: bytes) -> "Content":
        """Raises Unreadable."""
        try:
            user, data = from_json(plain)
        except (ValueError, TypeError) as error:  # TypeError: no two values
            raise Unreadable(str(error)) from error
        if not (user is None or isinstance(user, str)) or not isinstance(data, dict):
            raise Unreadable("neither a user nor data")
        return cls(user, data)


def merge(base: Mapping[str, JsonValue], mine: Data, theirs: Data) -> Data | None:
    """Both sides' changes of `base`, key by key; None if they contradict each other."""
    merged = dict(theirs)
    for key in base.keys() | mine.keys():
        before, after = base.get(key, _NOTHING), mine.get(key, _NOTHING)
        if _same(after, before):
            continue
        if not _same(now := theirs.get(key, _NOTHING), before) and not _same(now, after):
            return None
        merged.pop(key, None)
        if after is not _NOTHING:
            merged[key] = after
    return merged


def _same(one: Any, other: Any) -> bool:
    """Whether two values are written alike, unlike `==`, for which 1 is True and 1.0."""
    if one is _NOTHING or other is _NOTHING:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
