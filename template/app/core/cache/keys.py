"""Keys: the name of an entry, computed from the arguments that its value depends on.

The text of a key is injective: two different argument lists never share one. Every value carries
a letter for its type and, where its length is open, its length: `1`, `"1"`, `True` and `None`
differ, and so do `("a", "b")` and `("a:b",)`. A class is named with its module. A type without a
canonical text, and an object with state that its fields do not show, are errors, never a `repr`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary, WeakValueDictionary
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic_core import TzInfo

from app.core.serializers.comparison import plain_type

_MAX_LETTERS = 160
"""A longer key or tag is hashed."""
_READABLE_LETTERS = 64
"""So much of it can be read beside the hash."""
_MAX_REMEMBERED = 1_024
"""Entries whose keys are remembered: about 1 MB, since neither they nor their tags are long. Both
can be what a stranger asks for."""
_MAX_REMEMBERED_TAG_LETTERS = 256
_MAX_TAGS = 254
"""The head of an entry has one byte for the number of its versions."""


class UnkeyableType(TypeError):
    """A value that cannot be part of a key."""


def canonical(value: Any) -> str:
    """Return the text of a value, which may contain others: equal texts mean equal values.

    Raises:
        UnkeyableType: there is no canonical text for its type, or it would not tell all of it.
    """
    if encode := _EXACT.get(type(value)):
        return encode(value)
    if isinstance(value, Enum):
        return f"e{_class_name(type(value))}{canonical(value.value)}"
    if isinstance(value, BaseModel):
        return f"m{_class_name(type(value))}{_mapping(_fields_of_model(value))}"
    if is_dataclass(value) and not isinstance(value, type):
        return f"m{_class_name(type(value))}{_mapping(_fields_of_dataclass(value))}"
    if plain_type(value) is UUID:
        return canonical(UUID(int=value.int))
    raise _unkeyable(value, "pass an id instead, or name the argument in ignore=")


def _unkeyable(value: Any, remedy: str) -> UnkeyableType:
    return UnkeyableType(f"{type(value).__qualname__} cannot be part of a cache key: {remedy}")


# The names of classes that were part of a key, and the class that each name is of.
_class_names: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_classes: WeakValueDictionary[str, type] = WeakValueDictionary()


def _class_name(type_: type) -> str:
    """Return the name of a class with its module: no other class has it, even if made at run time.

    Raises:
        UnkeyableType: another class has this name.
    """
    if (known := _class_names.get(type_)) is not None:
        return known
    name = f"{type_.__module__}.{type_.__qualname__}"
    if _classes.setdefault(name, type_) is not type_:
        raise UnkeyableType(
            f"{name} cannot be part of a cache key: there are two classes of this name, whose "
            "values would share their entries"
        )
    _class_names[type_] = text = _sized(name)
    return text


def _fields_of_model(value: BaseModel) -> dict[str, Any]:
    if value.__pydantic_private__:
        raise _unkeyable(value, "it has private attributes, which its fields do not show")
    items = _all_of(value, type(value).model_fields)
    if value.model_extra:
        items |= value.model_extra
    return items


def _fields_of_dataclass(value: Any) -> dict[str, Any]:
    if isinstance(value, str | bytes | int | float | tuple | list | dict | set | frozenset):
        raise _unkeyable(value, "it is more than its fields: pass an id instead")
    names = [field.name for field in fields(value)]
    slots = {
        slot
        for base in type(value).__mro__
        for slot in _names_in(vars(base).get("__slots__", ()))
        if not slot.startswith("__") and hasattr(value, slot)
    }
    if hidden := slots.difference(names):
        raise _hiding(value, hidden)
    return _all_of(value, names)


def _names_in(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _all_of(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of an object that has no other state, but what is computed from them."""
    try:
        items = {name: getattr(value, name) for name in names}
    except AttributeError as error:
        raise _unkeyable(value, f"a field of it is not set ({error})") from error
    more = getattr(value, "__dict__", items).keys() - items.keys()
    if hidden := {
        name for name in more if not isinstance(getattr(type(value), name, None), cached_property)
    }:
        raise _hiding(value, hidden)
    return items


def _hiding(value: Any, hidden: set[str]) -> UnkeyableType:
    return _unkeyable(value, f"its fields do not show {', '.join(sorted(hidden))}: pass an id")


def _sized(text: str) -> str:
    return f"{len(text)}:{text}"


def _items(texts: Sequence[str]) -> str:
    return f"{len(texts)}({','.join(texts)})"


def _sequence(values: Iterable[Any]) -> str:
    return _items([canonical(value) for value in values])


def _pairs(items: Mapping[Any, Any]) -> list[str]:
    return [f"{canonical(key)}={canonical(value)}" for key, value in items.items()]


def _mapping(items: Mapping[Any, Any]) -> str:
    return _items(sorted(_pairs(items)))


def _set(values: Iterable[Any]) -> str:
    return f"S{_items(sorted(map(canonical, values)))}"


def _moment(value: datetime | time) -> str:
    """Return the text of ISO 8601 and what it leaves out: the name of the zone, and which of two it
    is on a day when clocks are put back."""
    text = value.isoformat() + ("~" if value.fold else "")
    return text if value.tzinfo is None else f"{text}{_zone(value.tzinfo)}"


def _zone(zone: tzinfo) -> str:
    if type(zone) in (timezone, TzInfo):
        # A time of day has its offset in its text, too.
        return ""
    if type(zone) is ZoneInfo and zone.key:
        return f"[{zone.key}]"
    raise _unkeyable(zone, "use zoneinfo.ZoneInfo with a name, or datetime.timezone")


_EXACT: dict[type, Callable[[Any], str]] = {
    int: lambda value: f"i{value}",
    str: lambda value: f"s{len(value)}:{value}",
    bool: lambda value: "b1" if value else "b0",
    type(None): lambda _: "n",
    float: lambda value: f"f{value!r}",
    bytes: lambda value: f"y{value.hex()}",
    Decimal: lambda value: f"D{value}",
    UUID: lambda value: f"u{value}",
    datetime: lambda value: f"T{_moment(value)}",
    date: lambda value: f"t{value.isoformat()}",
    time: lambda value: f"c{_moment(value)}",
    timedelta: lambda value: f"x{value // timedelta(microseconds=1)}",
    tuple: lambda value: f"p{_sequence(value)}",
    list: lambda value: f"l{_sequence(value)}",
    dict: lambda value: f"d{_mapping(value)}",
    OrderedDict: lambda value: f"o{_items(_pairs(value))}",
    set: _set,
    frozenset: _set,
}


def _is_text(key: str) -> bool:
    # Half of a surrogate pair, which JSON from outside can hold, has no UTF-8.
    return key.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in key)


def _digest(text: str) -> "blake2b":
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)


@dataclass(slots=True)  # not frozen: every read makes one, and freezing costs more than the rest
class EntryKeys:
    """The names of everything in Redis that has to do with one entry."""

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
        """Name entries of `service`; a new `epoch` leaves all entries of the old one behind."""
        self.service = service
        self._prefix = f"{service}:{epoch}"
        # Popular entries are asked for again and again.
        self._remembered = lru_cache(_MAX_REMEMBERED)(self._entry_keys)

    def entry_keys(self, policy: str, key: str, tags: Sequence[str]) -> EntryKeys:
        """Return the keys of an entry.

        `key` is a canonical text; the order of `tags` does not matter.
        """
        if isinstance(tags, str):
            raise TypeError(f"tags are a sequence of strings, not the string {tags!r}")
        if len(key) > _MAX_LETTERS or (tags and sum(map(len, tags)) > _MAX_REMEMBERED_TAG_LETTERS):
            return self._entry_keys(policy, key, tuple(tags))
        return self._remembered(policy, key, tuple(tags))

    def _entry_keys(self, policy: str, key: str, tags: tuple[str, ...]) -> EntryKeys:
        if len(names := sorted(set(tags)) if len(tags) > 1 else tags) > _MAX_TAGS:
            raise ValueError(f"an entry takes {_MAX_TAGS} tags at most, not {len(names)}")
        readable = key
        digest = _digest(key)
        if len(key) > _MAX_LETTERS or not _is_text(key):
            head = key[:_READABLE_LETTERS].encode(errors="replace").decode()
            readable = f"#{digest.hexdigest()}:{head}"
        # The braces make both keys land in one slot of a cluster. A key never starts with "}",
        # which would make an empty hash tag: every canonical text starts with a letter.
        value = f"{self._prefix}:{policy}:{{{readable}}}"
        return EntryKeys(
            value=value,
            lease=f"{value}:lease",
            versions=(self.policy_version(policy), *map(self.tag_version, names)),
            fingerprint=digest.digest()[:8],
        )

    def policy_version(self, policy: str) -> str:
        """Return the key of a policy's version."""
        return f"{self._prefix}:{policy}:version"

    def tag_version(self, tag: str) -> str:
        """Return the key of a tag's version."""
        # A policy's name has no "@": the version of a policy "tag" is not that of a tag "version".
        if len(tag) <= _MAX_LETTERS and _is_text(tag):
            return f"{self._prefix}:@tag:{tag}"
        return f"{self._prefix}:@tag#:{_digest(tag).hexdigest()}"

    @property
    def channel(self) -> str:
        """The channel on which invalidations are announced."""
        return f"{self._prefix}:invalidated"

    @property
    def servers(self) -> str:
        """The hash that says which server each policy was last seen on."""
        return f"{self._prefix}:servers"

    @property
    def probe(self) -> str:
        """A key that never exists, to ask whether the server answers."""
        return f"{self._prefix}:probe"
