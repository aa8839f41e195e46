"""Keys: the name of an entry, computed from the arguments that its value depends on.

The text of a key is injective: two different argument lists never share one. Every value carries
a letter for its type and, where its length is open, its length: `1`, `"1"`, `True` and `None`
differ, and so do `("a", "b")` and `("a:b",)`. A type without a canonical text is an error, never
its `repr`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

from pydantic import BaseModel

_LONGEST = 160
_READABLE = 64
# Addresses that are remembered: about 1 MB of them.
_REMEMBERED = 1_024
_FEW_TAGS = 10
_MOST_TAGS = 254


class UnkeyableType(TypeError):
    """A value that cannot be part of a key."""


def canonical(value: Any) -> str:
    """The text of one value, or of a nest of values.

    Raises:
        UnkeyableType: there is no canonical text for its type.
    """
    if encode := _EXACT.get(type(value)):
        return encode(value)
    if isinstance(value, Enum):
        return f"e{_sized(type(value).__qualname__)}{canonical(value.value)}"
    if isinstance(value, BaseModel):
        items = {name: getattr(value, name) for name in type(value).model_fields}
        items |= value.model_extra or {}
        return f"m{_sized(type(value).__qualname__)}{_mapping(items)}"
    if is_dataclass(value) and not isinstance(value, type):
        items = {field.name: getattr(value, field.name) for field in fields(value)}
        return f"m{_sized(type(value).__qualname__)}{_mapping(items)}"
    if isinstance(value, Mapping):
        return f"d{_mapping(value)}"
    if isinstance(value, AbstractSet):
        return f"S{_items(sorted(map(canonical, value)))}"
    raise UnkeyableType(
        f"{type(value).__qualname__} cannot be part of a cache key: "
        "pass an id instead, or name the argument in ignore="
    )


def _sized(text: str) -> str:
    return f"{len(text)}:{text}"


def _items(texts: Sequence[str]) -> str:
    return f"{len(texts)}({','.join(texts)})"


def _sequence(values: Iterable[Any]) -> str:
    return _items([canonical(value) for value in values])


def _mapping(items: Mapping[Any, Any]) -> str:
    return _items(sorted(f"{canonical(key)}={canonical(value)}" for key, value in items.items()))


_EXACT: dict[type, Callable[[Any], str]] = {
    int: lambda value: f"i{value}",
    str: lambda value: f"s{len(value)}:{value}",
    bool: lambda value: "b1" if value else "b0",
    type(None): lambda _: "n",
    float: lambda value: f"f{value!r}",
    bytes: lambda value: f"y{value.hex()}",
    Decimal: lambda value: f"D{value}",
    UUID: lambda value: f"u{value}",
    datetime: lambda value: f"T{value.isoformat()}",
    date: lambda value: f"t{value.isoformat()}",
    time: lambda value: f"c{value.isoformat()}",
    timedelta: lambda value: f"x{value // timedelta(microseconds=1)}",
    tuple: lambda value: f"p{_sequence(value)}",
    list: lambda value: f"l{_sequence(value)}",
}


def _is_text(key: str) -> bool:
    # Half of a surrogate pair, which JSON from outside can hold, has no UTF-8.
    return key.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in key)


@dataclass(slots=True)  # not frozen: every read makes one, and freezing costs more than the rest
class Address:
    """Where one entry lives: the names of everything in Redis that has to do with it."""

    value: str
    lease: str
    versions: tuple[str, ...]
    """The version of the policy and of each tag: an entry is valid while none of them moved."""
    fingerprint: bytes
    """8 bytes of the whole key, kept in the entry: bytes moved to another key are not believed."""
    read_keys: tuple[bytes, ...] = field(init=False)
    """The value and the versions, as they are asked for."""

    def __post_init__(self) -> None:
        self.read_keys = tuple(key.encode() for key in (self.value, *self.versions))


class Keyspace:
    """The names of one service's entries in Redis."""

    def __init__(self, service: str, epoch: int = 1) -> None:
        """A new `epoch` leaves all entries of the old one behind."""
        self._prefix = f"{service}:{epoch}"
        # Popular entries are asked for again and again.
        self._remembered = lru_cache(_REMEMBERED)(self._address)

    def address(self, policy: str, key: str, tags: Sequence[str]) -> Address:
        """`key` is a canonical text; the order of `tags` does not matter."""
        if isinstance(tags, str):
            raise TypeError(f"tags are a sequence of strings, not the string {tags!r}")
        if len(key) > _LONGEST or len(tags) > _FEW_TAGS:
            return self._address(policy, key, tuple(tags))
        return self._remembered(policy, key, tuple(tags))

    def _address(self, policy: str, key: str, tags: tuple[str, ...]) -> Address:
        if len(names := sorted(set(tags)) if len(tags) > 1 else tags) > _MOST_TAGS:
            raise ValueError(f"an entry takes {_MOST_TAGS} tags at most, not {len(names)}")
        readable = key
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16)
        if len(key) > _LONGEST or not _is_text(key):
            head = key[:_READABLE].encode(errors="replace").decode()
            readable = f"#{digest.hexdigest()}:{head}"
        # The braces make both keys land in one slot of a cluster. A key never starts with "}",
        # which would make an empty hash tag: every canonical text starts with a letter.
        value = f"{self._prefix}:{policy}:{{{readable}}}"
        return Address(
            value=value,
            lease=f"{value}:lease",
            versions=(self.policy_version(policy), *map(self.tag_version, names)),
            fingerprint=digest.digest()[:8],
        )

    def policy_version(self, policy: str) -> str:
        return f"{self._prefix}:{policy}:version"

    def tag_version(self, tag: str) -> str:
        # A policy's name has no "@": the version of a policy "tag" is not that of a tag "version".
        return f"{self._prefix}:@tag:{tag.encode(errors='backslashreplace').decode()}"

    @property
    def channel(self) -> str:
        """Where invalidations are announced."""
        return f"{self._prefix}:invalidated"

    @property
    def probe(self) -> str:
        """A key that never exists, to ask whether the server answers."""
        return f"{self._prefix}:probe"
