"""The headers of HTTP caching: RFC 9110 (conditional requests), 9111 (caching), 9211 (status)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.core import problems
from app.core.cache.entry import Entry
from app.core.cache.http.response import StoredResponse, find
from app.core.cache.results import CacheResult, Outcome
from app.core.responses import Headers, PreparedResponse

# What a 304 repeats of the response it stands for (RFC 9110, 15.4.5).
_OF_304 = frozenset({b"cache-control", b"content-location", b"date", b"expires", b"vary"})
# RFC 9651, 3.3.4: what may stand without quotes.
_TOKEN = re.compile(rb"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")
# RFC 9110, 8.8.3: the tags of a list, of which a comma may be part.
_ETAG = re.compile(rb'(?:^|,)[ \t]*(?:W/)?("[\x21\x23-\xff]*")[ \t]*(?=,|$)')

_FAILED = problems.answer(412, "If-Match names another version than the one there is")
"""For all whose version is another one."""

UNKNOWN = b"no-cache"
"""The Cache-Control of what a cached route did not say anything about, such as an error."""


def conditions(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers that make a request conditional, of those that responses obey."""
    return [pair for pair in headers if pair[0] == b"if-none-match" or pair[0] == b"if-match"]


def names_entity(condition: bytes, etag: bytes) -> bool:
    """Return whether a list of entity tags has this one, or is `*`.

    Weak comparison (RFC 9110, 8.8.3.2), for If-Match too: the tags are weak for the sake of layers
    that compress, and what they stand for has the same bytes.
    """
    return condition.strip() == b"*" or etag.removeprefix(b"W/") in _ETAG.findall(condition)


@dataclass(frozen=True, slots=True)
class Freshness:
    """What clients and proxies are told; times in seconds."""

    service: str
    public: bool
    max_age: float
    stale_while_revalidate: float
    stale_if_error: float

    def cache_control(self, age: int, left: int) -> bytes:
        """Return the header of a response of this age that is fresh for `left` seconds more.

        A client counts `max-age` from when the response was made, by its Age (RFC 9111, 4.2): to
        keep it for `max_age` seconds from now it has to be told the sum.
        """
        keep = age + min(int(self.max_age), left) if self.max_age and left > 0 else 0
        parts = ["public" if self.public else "private", f"max-age={keep}"]
        if not self.max_age:
            parts.append("must-revalidate")
        else:
            if self.stale_while_revalidate:
                parts.append(f"stale-while-revalidate={int(self.stale_while_revalidate)}")
            if self.stale_if_error:
                parts.append(f"stale-if-error={int(self.stale_if_error)}")
        return ", ".join(parts).encode()


class ResponseRenderer:
    """Turns a stored response into what one request gets."""

    def __init__(self, freshness: Freshness) -> None:
        self._freshness = freshness
        # The body depends on who asks; these are the ways of saying who one is.
        self._vary = set() if freshness.public else {"authorization", "cookie"}
        self._is_compressed = False
        self._service = _name(freshness.service)
        self.vary_by(())

    def vary_by(self, names: Iterable[str], *, is_compressed: bool = False) -> None:
        """Tell clients of more request headers that the body depends on.

        Where a layer outside compresses bodies it says so with each of them, but not with a 304.
        """
        self._vary |= {name.lower() for name in names}
        self._is_compressed |= is_compressed
        self._vary_header = _vary(self._vary)
        more = {"accept-encoding"} if self._is_compressed else set()
        self._vary_of_304 = _vary(self._vary | more)

    def render(
        self,
        stored: StoredResponse,
        outcome: Outcome,
        times: Entry | CacheResult,
        now: int,
        conditions: Headers,
    ) -> PreparedResponse:
        """Return the response to send; `now` is in milliseconds since 1970."""
        age = max((now - times.created) // 1000, 0)
        left = (times.fresh_until - now) // 1000
        told = age, left, outcome
        if conditions and stored.status < 300:
            # In this order (RFC 9110, 13.2.2).
            if (match := find(conditions, b"if-match")) is not None and not names_entity(
                match, stored.etag
            ):
                # For this request only: a cache in between does not look at If-Match.
                headers = self._about(stored, *told, _FAILED.raw_headers, keep=False)
                return PreparedResponse(412, self.unknown(headers), bytes(_FAILED.body))
            if (none := find(conditions, b"if-none-match")) is not None and names_entity(
                none, stored.etag
            ):
                kept = [pair for pair in stored.headers if pair[0] in _OF_304]
                return PreparedResponse(
                    304, kept + self._about(stored, *told, self._vary_of_304), b""
                )
        # They change once a second: a popular response has them ready.
        if stored.sent is None or stored.sent[0] != told:
            headers = stored.headers + self._about(stored, *told, self._vary_header)
            stored.sent = told, PreparedResponse(stored.status, headers, stored.body)
        return stored.sent[1]

    def unknown(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Complete the headers of a response that is not kept, where it does not say itself.

        A shared cache may keep some of what says nothing for as long as it likes (RFC 9111, 4.2.2).
        """
        complete = [*headers]
        names = {name.lower() for name, _ in complete}
        if b"cache-control" not in names:
            control = UNKNOWN if self._freshness.public else b"private, " + UNKNOWN
            complete.append((b"cache-control", control))
            complete += self._vary_header
        return complete

    def _about(
        self,
        stored: StoredResponse,
        age: int,
        left: int,
        outcome: Outcome,
        first: Headers,
        *,
        keep: bool = True,
    ) -> Headers:
        """Return headers about the stored response; with `keep` also for how long to keep it."""
        about = [*first, (b"age", b"%d" % age), (b"cache-status", self._status(left, outcome))]
        if stored.etag:
            about.append((b"etag", stored.etag))
        if keep and not any(name == b"cache-control" for name, _ in stored.headers):
            about.append((b"cache-control", self._freshness.cache_control(age, left)))
        return about

    def _status(self, left: int, outcome: Outcome) -> bytes:
        if outcome is Outcome.MISS:
            return b"%s; fwd=miss" % self._service
        detail = b"; detail=stale-if-error" if outcome is Outcome.STALE_ERROR else b""
        return b"%s; hit; ttl=%d%s" % (self._service, left, detail)


def _vary(names: Iterable[str]) -> Headers:
    value = ", ".join(sorted(names)).title().encode("latin-1")
    return [(b"vary", value)] if value else []


def _name(service: str) -> bytes:
    """Return the cache's name as a token or, where it is none, a string (RFC 9211, 2)."""
    name = service.encode("ascii", errors="replace")
    if _TOKEN.fullmatch(name):
        return name
    return b'"%s"' % name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
