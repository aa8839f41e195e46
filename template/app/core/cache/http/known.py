"""What the middleware has found for a path and a query, for those that are asked for again.

Both are what strangers choose, so what is remembered of them is bounded in bytes.
"""

from collections.abc import Callable
from sys import getsizeof
from typing import Generic, TypeVar

from starlette.types import Scope

MAX_BYTES = 8 * 1024 * 1024
"""The most memory that this takes of a process."""

_LONGEST = 512
"""Characters of a path and bytes of a query that are remembered."""
_OVERHEAD = 1_000
"""Bytes of what is remembered beside the strings."""

Key = tuple[str, bytes]
T = TypeVar("T")


class KnownPlaces(Generic[T]):
    """Two generations: what was asked for since the younger one began survives the older one."""

    def __init__(self, size_of: Callable[[T], int], max_bytes: int = MAX_BYTES) -> None:
        """`size_of` says how many bytes of strings are kept for a place."""
        self.young: dict[Key, T] = {}
        """To be looked at first."""
        self._old: dict[Key, T] = {}
        self._size_of = size_of
        self._max_bytes = max_bytes // 2
        self._bytes = 0

    def find(self, key: Key) -> T | None:
        """What is known, where it is not in `young`."""
        if (place := self._old.pop(key, None)) is not None:
            self.keep(key, place)
        return place

    def keep(self, key: Key, place: T) -> None:
        """Remember a place, unless the request is a long one."""
        path, query = key
        if len(path) + len(query) > _LONGEST:
            return
        self._bytes += _OVERHEAD + getsizeof(path) + getsizeof(query) + self._size_of(place)
        if self._bytes > self._max_bytes:
            self._old, self.young, self._bytes = self.young, {}, 0
        self.young[key] = place


def key_of(scope: Scope) -> Key:
    return scope["path"], scope["query_string"]
