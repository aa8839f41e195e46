"""How values of one type under one policy become entries, and entries values again.

A popular entry is computed anew before it expires (XFetch, from "Optimal Probabilistic Cache
Stampede Prevention"; Vattani, Chierichetti, Lowenstein; VLDB 2015): every reader draws a random
time, proportional to what the value cost to compute; the more readers there are, the earlier
one of them wins. Here the winner refreshes in the background under the lease, so nobody waits and
one process does it.
"""

import math
import random
from collections.abc import Callable, Sequence
from secrets import token_bytes
from typing import Any

import structlog

from app.core.cache import metrics
from app.core.cache.entry import ID_SIZE, Entry, Miss, decode, encode, entry_id, mark
from app.core.cache.keys import EntryKeys
from app.core.cache.options import (
    MADE_UP_BYTES_PER_MINUTE,
    SECOND_ASK_SECONDS,
    ByteBudget,
    PolicyOptions,
    short_lived,
)
from app.core.cache.results import Outcome, ReadResult, now_ms
from app.core.serializers import Codec, DecodeError, NotStorable, SignatureError

log = structlog.get_logger(__name__)

MAX_AHEAD_MS = 5_000
"""Clocks of processes differ. An entry from further ahead would be fresh for as much too long."""
_LONGEST_GAPS = 15
"""exp(-15) of all draws reach further: reads that are not that near to expiry draw nothing."""


class EntryCodec:
    """Makes entries of the values of one type under one policy, and values of entries."""

    def __init__(
        self,
        policy: str,
        options: PolicyOptions,
        codec: Codec,
        serializer_format: int,
        *,
        is_negative: Callable[[Any], bool] = lambda value: value is None,
        second_ask: bool = False,
    ) -> None:
        """Describe the values.

        Args:
            is_negative: tells values that say "there is none" and live for `negative_ttl`.
            second_ask: anybody can make up their keys; see `options`.
        """
        self.policy = policy
        self.options = short_lived(options) if second_ask else options
        self.value_codec = codec
        self._budget = ByteBudget(MADE_UP_BYTES_PER_MINUTE) if second_ask else None
        self._serializer_format = serializer_format
        self._is_negative = is_negative
        self._reads = {outcome: metrics.reads.labels(policy, outcome) for outcome in Outcome}
        self._misses = {reason: metrics.misses.labels(policy, reason) for reason in Miss}
        self._load_seconds = metrics.load_seconds.labels(policy)

    def new_entry(
        self, value: Any, cost: float, versions: bytes, own_ttl: float | None = None
    ) -> Entry:
        """Make the entry of a value that was just loaded in `cost` seconds, without its payload.

        `own_ttl` is what its loader says, in seconds; 0: it is not kept; None: as the policy says.
        """
        options, created, ttl = self.options, now_ms(), self.options.ttl
        stale, error = options.stale_while_revalidate, options.stale_if_error
        negative_ttl = options.negative_ttl if self._is_negative(value) else None
        if own_ttl is not None:
            # What is fresh for half as long is stale for half as long. What is fresh for longer is
            # not: the policy says how stale a value may be.
            share = min(1.0, own_ttl / options.ttl)
            ttl, stale, error = own_ttl, stale * share, error * share
            if self._budget is not None:
                ttl = min(ttl, SECOND_ASK_SECONDS)
        elif negative_ttl is not None:
            ttl = negative_ttl
        if negative_ttl is not None:
            # Whoever asks for what does not exist decides how many of these there are: once more
            # as long is margin enough.
            stale, error = min(stale, ttl), min(error, ttl)
        fresh_until = created + round(ttl * 1000 * (1 - random.uniform(0, options.jitter)))
        return Entry(
            id=token_bytes(ID_SIZE),
            created=created,
            fresh_until=fresh_until,
            stale_until=fresh_until + round(stale * 1000),
            error_until=fresh_until + round(error * 1000),
            cost=round(cost * 1000),
            versions=versions,
            negative=value is None,
            payload=b"",
        )

    def pack(self, entry: Entry, value: Any, keys: EntryKeys) -> bytes | None:
        """Return the bytes to store for a value, or None if it is not to be stored."""
        if entry.fresh_until <= entry.created:  # not to be kept, or a negative_ttl of 0
            return None
        try:
            if not entry.negative:
                entry.payload = self.value_codec.dumps(value, key=keys.value.encode())
            return encode(
                entry,
                serializer=self._serializer_format,
                schema=self.value_codec.fingerprint,
                key=keys.fingerprint,
                compress_from=self.options.compress_from,
            )
        except NotStorable:
            metrics.stores.labels(self.policy, "unstorable").inc()
        except ValueError as error:
            log.error("cache.not_stored", policy=self.policy, error=str(error))
            metrics.stores.labels(self.policy, "failed").inc()
        return None

    def admit(self, read: ReadResult, raw: bytes, ttl: float) -> tuple[bytes, float] | None:
        """Return what to store for a value's bytes, and its ttl in seconds; None: nothing."""
        if self._budget is None:
            return raw, ttl
        if not read.id:
            return mark(Miss.FIRST_ASK), SECOND_ASK_SECONDS
        if self._budget.take(len(raw)):
            return raw, ttl
        metrics.stores.labels(self.policy, "over_budget").inc()
        return None

    def unpack(
        self,
        keys: EntryKeys,
        raw: bytes | None,
        versions: Sequence[bytes | None],
        *,
        at: float,
    ) -> ReadResult:
        """Decode what was read under these keys, and asked for `at` a moment."""
        entry = decode(
            raw,
            serializer=self._serializer_format,
            schema=self.value_codec.fingerprint,
            key=keys.fingerprint,
            versions=_joined(versions),
        )
        if isinstance(entry, Miss):
            return ReadResult(None, None, entry, entry_id(raw), versions, at=at)
        if entry.created > now_ms() + MAX_AHEAD_MS:
            return ReadResult(None, None, Miss.FUTURE, entry.id, versions, at=at)
        try:
            value = self.load_payload(entry, keys)
        except SignatureError:
            return ReadResult(None, None, Miss.SIGNATURE, entry.id, versions, at=at)
        except DecodeError:
            return ReadResult(None, None, Miss.CORRUPT, entry.id, versions, at=at)
        entry.early_refresh_from = early_refresh_from(entry.fresh_until, self._xfetch_gap(entry))
        return ReadResult(entry, value, None, entry.id, versions, at=at)

    def load_payload(self, entry: Entry, keys: EntryKeys) -> Any:
        """Make a new copy of an entry's value."""
        if entry.negative:
            return None
        return self.value_codec.loads(entry.payload, key=keys.value.encode())

    def is_due(self, entry: Entry, now: int) -> bool:
        """Return whether this reader should have an entry refreshed; `now` in ms since 1970."""
        return now >= entry.early_refresh_from and xfetch_is_due(
            entry.fresh_until - now, self._xfetch_gap(entry)
        )

    def _xfetch_gap(self, entry: Entry) -> float:
        lifetime = (entry.fresh_until - entry.created) / 1000
        return xfetch_gap(entry.cost, lifetime, self.options.early_refresh)

    def count(self, outcome: Outcome) -> None:
        metrics.buffered.add(self._reads[outcome])

    def count_load(self, outcome: Outcome, reason: Miss | None) -> None:
        """Count a read that the cache alone could not answer, and why it could not."""
        self.count(outcome)
        if outcome is Outcome.MISS:
            self._misses[reason or Miss.EXPIRED].inc()

    def observe_load(self, outcome: str, seconds: float) -> None:
        metrics.loads.labels(self.policy, outcome).inc()
        self._load_seconds.observe(seconds)


def _joined(versions: Sequence[bytes | None]) -> bytes | None:
    """Return all versions in one; None if one is missing."""
    known = [version for version in versions if version is not None]
    return b"".join(known) if len(known) == len(versions) else None


def xfetch_gap(cost: int, ttl: float, beta: float) -> float:
    """Return the mean of what readers draw, in milliseconds like `cost`; `ttl` in seconds."""
    # A loader that is slow beside its ttl would otherwise be refreshed by every read.
    return min(cost * beta, ttl * 1000 / 4)


def early_refresh_from(fresh_until: int, mean: float) -> int:
    """Return the moment before which no reader need draw; all in milliseconds."""
    return fresh_until - math.ceil(mean * _LONGEST_GAPS)


def xfetch_is_due(left: int, mean: float) -> bool:
    """Return whether what this reader draws covers the `left` milliseconds until expiry."""
    return -mean * math.log(1 - random.random()) >= left
