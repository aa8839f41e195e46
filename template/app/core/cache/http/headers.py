"""The headers of HTTP caching: RFC 9110 (conditional requests), 9111 (caching), 9211 (status)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.core.cache.entry import Entry
from app.core.cache.http.response import StoredResponse
from app.core.cache.seen import Loaded, Outcome
from app.core.reply import Headers, Ready

# What a 304 repeats of the response it stands for (RFC 9110, 15.4.5).
_OF_304 = frozenset({b"content-location", b"date", b"expires", b"vary"})
# RFC 9110, 7.6.1: for the next hop only, never to be kept.
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"proxy-authenticate", b"proxy-authorization"}
)  # fmt: skip
# RFC 9651, 3.3.4: what may stand without quotes.
_TOKEN = re.compile(rb"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """Whether the client has this representation (weak comparison, RFC 9110, 13.1.2)."""
    if if_none_match.strip() == b"*":
        return True
    candidates = (candidate.strip() for candidate in if_none_match.split(b","))
    return any(candidate.removeprefix(b"W/") == etag for candidate in candidates)


def find(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """All values of a request header, joined as a list (RFC 9110, 5.3)."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class Freshness:
    """What clients and proxies are told; times in seconds."""

    service: str
    public: bool
    max_age: float
    stale_while_revalidate: float
    stale_if_error: float

    def cache_control(self) -> bytes:
        parts = ["public" if self.public else "private", f"max-age={int(self.max_age)}"]
        if not self.max_age:
            parts.append("must-revalidate")
        else:
            if self.stale_while_revalidate:
                parts.append(f"stale-while-revalidate={int(self.stale_while_revalidate)}")
            if self.stale_if_error:
                parts.append(f"stale-if-error={int(self.stale_if_error)}")
        return ", ".join(parts).encode()


class Sender:
    """Turns a stored response into what one request gets."""

    def __init__(self, freshness: Freshness) -> None:
        self._control: Headers = [(b"cache-control", freshness.cache_control())]
        # The body depends on who asks; these are the ways of saying who one is.
        self._vary = set() if freshness.public else {"authorization", "cookie"}
        self._fixed: Headers = []
        self.vary_by(())
        self._service = _name(freshness.service)

    def vary_by(self, names: Iterable[str]) -> None:
        """Tell clients of more request headers that the body depends on."""
        self._vary |= {name.lower() for name in names}
        value = ", ".join(sorted(self._vary)).title().encode("latin-1")
        self._fixed = [*self._control, *([(b"vary", value)] if value else [])]

    def prepare(
        self,
        stored: StoredResponse,
        outcome: Outcome,
        times: Entry | Loaded,
        now: int,
        if_none_match: bytes | None,
    ) -> Ready:
        """The response to send; `now` in milliseconds since 1970."""
        age = max((now - times.created) // 1000, 0)
        left = (times.fresh_until - now) // 1000
        if (
            if_none_match is not None
            and stored.status < 300
            and matches(if_none_match, stored.etag)
        ):
            kept = [pair for pair in stored.headers if pair[0] in _OF_304]
            return Ready(304, kept + self._about(stored, age, left, outcome), b"")
        told = age, left, outcome
        # They change once a second: a popular response has them ready.
        if stored.sent is None or stored.sent[0] != told:
            headers = stored.headers + self._about(stored, *told)
            stored.sent = told, Ready(stored.status, headers, stored.body)
        return stored.sent[1]

    def _about(self, stored: StoredResponse, age: int, left: int, outcome: Outcome) -> Headers:
        return [
            (b"etag", stored.etag),
            *self._fixed,
            (b"age", b"%d" % age),
            (b"cache-status", self._status(left, outcome)),
        ]

    def _status(self, left: int, outcome: Outcome) -> bytes:
        if outcome is Outcome.MISS:
            return b"%s; fwd=miss" % self._service
        detail = b"; detail=stale-if-error" if outcome is Outcome.STALE_ERROR else b""
        return b"%s; hit; ttl=%d%s" % (self._service, left, detail)


def _name(service: str) -> bytes:
    """The cache's name as a token or, where it is none, a string (RFC 9211, 2)."""
    name = service.encode("ascii", errors="replace")
    if _TOKEN.fullmatch(name):
        return name
    return b'"%s"' % name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
