"""The near cache: the hottest entries in the memory of this process, for a few seconds.

It is right to use it only while this process hears of invalidations: when the link is lost it is
emptied and switched off until the link is back.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from time import monotonic, time

from app.core.cache.entry_codec import EntryCodec
from app.core.cache.keys import EntryKeys
from app.core.cache.results import ReadResult

_OVERHEAD_BYTES = 3_000
"""Bytes of an entry beside its payload and its key, as measured with tracemalloc: those of a
response with its headers and a tag. A plain value takes half of it."""
_LETTER_BYTES = 4
"""Bytes of a letter of a name: as many as the widest takes."""
_STRIPES = 1024


@dataclass(frozen=True, slots=True)
class _Kept:
    read: ReadResult
    until: float
    size: int
    versions: tuple[str, ...]


class NearCache:
    """Keeps at most `max_bytes` bytes, dropping what was not used for longest."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, _Kept] = OrderedDict()
        self._by_version: dict[str, set[str]] = {}
        # An invalidation that arrives between the reply of Redis and `put` must win: it moves the
        # generation of its stripe, and what was read under another generation is not kept.
        self._generations = [0] * _STRIPES
        self._everything = 0
        self.is_online = False

    def get(self, key: str) -> ReadResult | None:
        """Return what is kept and still fresh."""
        kept = self._entries.get(key)
        if kept is None:
            return None
        if kept.until <= monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return kept.read

    def generation(self, key: str) -> tuple[int, int]:
        """Return the generation of a key: call it before the read whose result is `put`."""
        return self._everything, self._generations[hash(key) % _STRIPES]

    def put(
        self, codec: EntryCodec, keys: EntryKeys, read: ReadResult, generation: tuple[int, int]
    ) -> None:
        """Keep what was read, unless it was invalidated meanwhile."""
        key, entry = keys.value, read.entry
        if entry is None or not self.is_online or self.generation(key) != generation:
            return
        seconds = min(codec.options.near_ttl, (entry.fresh_until / 1000) - time())
        names = len(key) + sum(map(len, keys.versions))
        size = len(entry.payload) + _LETTER_BYTES * names + _OVERHEAD_BYTES
        if seconds <= 0 or size > self._max_bytes:
            return
        self._drop(key)
        # One form is enough: what callers share, or what a copy for each of them is made of.
        if codec.value_codec.shareable:
            read = replace(read, near=True, entry=replace(entry, payload=b""))
        else:
            read = replace(read, near=True, value=None)
        self._entries[key] = _Kept(read, monotonic() + seconds, size, keys.versions)
        self._bytes += size
        for version in keys.versions:
            self._by_version.setdefault(version, set()).add(key)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def invalidate(self, keys: Iterable[str]) -> None:
        """Forget entries."""
        for key in keys:
            self._generations[hash(key) % _STRIPES] += 1
            self._drop(key)

    def invalidate_versions(self, versions: Iterable[str]) -> None:
        """Forget all entries of policies or tags."""
        self._everything += 1
        for version in versions:
            for key in tuple(self._by_version.get(version, ())):
                self._drop(key)

    def switch_on(self) -> None:
        """Start empty: from now on this process hears of invalidations."""
        self.switch_off()
        self.is_online = True

    def switch_off(self) -> None:
        """Forget everything: this process hears of no invalidations."""
        self.is_online = False
        self._everything += 1
        self._entries.clear()
        self._by_version.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        if (kept := self._entries.pop(key, None)) is None:
            return
        self._bytes -= kept.size
        for version in kept.versions:
            keys = self._by_version[version]
            keys.discard(key)
            if not keys:
                del self._by_version[version]
