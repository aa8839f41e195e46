"""The public keys of whoever issues the tokens, kept fresh.

They come as a JSON Web Key Set (RFC 7517) from a URL or a file. A key that is new there is found by
its id: a token that names an unknown one has the set fetched again, which anybody can cause, so not
more often than `pause` allows. A set that is one is believed as a whole: what is missing in it was
withdrawn, also when nothing is left. While the issuer is away, or answers something else, the keys
that are known stay good, for a day.
"""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import httpx2
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from app.core.access import metrics

log = structlog.get_logger(__name__)

_LARGEST = 256 * 1024
_SHORTEST_RSA = 2048  # bits: RFC 7518, 3.3

DEVELOPMENT_KEY_ID = "development"
DEVELOPMENT_ALGORITHM = "HS256"


class KeysUnavailable(Exception):
    """No keys are known, or only old ones, so no token can be judged."""


class UnknownKey(Exception):
    """No key of the issuer has this id."""


class Keys(Protocol):
    """Where keys come from."""

    async def key(self, key_id: str | None) -> PyJWK: ...

    async def check(self) -> None:
        """Raises KeysUnavailable if no token could be judged now."""

    async def close(self) -> None: ...


class JwksClient:
    """The key set at one place."""

    def __init__(
        self,
        place: str,
        *,
        refresh: float = 600.0,
        oldest: float = 86_400.0,
        pause: float = 10.0,
        timeout: float = 3.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Make a source that has fetched nothing yet. `place` is a URL (https://) or a file's path.

        Args:
            refresh: the age, in seconds, at which keys are fetched again in the background; so
                long may a key that its issuer has taken back still be believed.
            oldest: the age, in seconds, up to which keys are believed while none can be fetched.
            pause: the least time between two fetches, in seconds.
            timeout: the longest that one fetch may take, in seconds.
            clock: tells seconds.
        """
        self._place = place
        self._refresh = refresh
        self._pause = pause
        self._oldest = oldest
        self._timeout = timeout
        self._clock = clock
        self._keys: Mapping[str | None, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None) -> PyJWK:
        """Find the key with this id. Without one it has to be the only key there is.

        Raises:
            UnknownKey: there is none, also after a look whether it is new.
            KeysUnavailable: nothing could be fetched so far, or for too long.
        """
        await self.check()
        if key_id not in self._keys:
            await self._look()
        elif self._age > self._refresh:
            self._start()
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownKey from None

    async def check(self) -> None:
        """Look for keys if there are none, or only old ones.

        Raises:
            KeysUnavailable: none were found.
        """
        if self._age > self._oldest:
            await self._look()
        if self._age > self._oldest:
            raise KeysUnavailable(f"no keys from {self._place} for {self._oldest:g} s")

    @property
    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)

    async def _look(self) -> None:
        if (fetch := self._start()) is not None:
            await asyncio.shield(fetch)  # who gives up does not end the attempt of the others

    def _start(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or a new one unless the last is too recent."""
        if self._fetch is not None and not self._fetch.done():
            return self._fetch
        if self._clock() - self._tried_at < self._pause:
            return None
        self._tried_at = self._clock()
        self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                self._keys = _by_id(await self._read())
        except Exception as error:  # of the network, of a library, of whatever is there
            metrics.key_fetches.labels("failed").inc()
            log.warning("access.keys_unavailable", place=self._place, error=repr(error))
            return
        self._fetched_at = self._clock()
        metrics.key_fetches.labels("fetched").inc()

    async def _read(self) -> bytes:
        if "://" not in self._place:
            return await asyncio.to_thread(Path(self._place).read_bytes)
        async with (
            httpx2.AsyncClient(timeout=self._timeout) as client,
            client.stream("GET", self._place) as response,
        ):
            response.raise_for_status()
            text = b""
            async for chunk in response.aiter_bytes():
                text += chunk
                if len(text) > _LARGEST:
                    raise ValueError(f"more than {_LARGEST} bytes")
            return text


def _by_id(text: bytes) -> dict[str | None, PyJWK]:
    """The keys of a set that verify signatures.

    Raises:
        ValueError: it is no set of keys.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError('it is no set of keys: {"keys": [{...}]}')
    found: dict[str | None, PyJWK] = {}
    for entry in entries:
        if (key := _verifying(entry)) is not None:
            found[key.key_id] = key
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    else:
        found.pop(None, None)
    if not found:
        log.warning("access.no_key_left", entries=len(entries))
    return found


def _verifying(entry: dict[str, Any]) -> PyJWK | None:
    """The key of an entry, if it may be believed what that has signed."""
    # A secret that was published by mistake verifies nothing, nor does the key that belongs to it.
    if entry.get("use") == "enc" or entry.get("kty") == "oct" or "d" in entry:
        return None
    if not isinstance(entry.get("kid"), str | None):
        return None
    try:
        key = PyJWK(entry)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("access.key_unusable", key=entry.get("kid"), error=repr(error))
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _SHORTEST_RSA:
        log.warning("access.key_too_short", key=key.key_id, bits=key.key.key_size)
        return None
    return key


class DevelopmentKeys:
    """One secret that everybody knows, so that a laptop needs no issuer of tokens."""

    def __init__(self, secret: str) -> None:
        octets = urlsafe_b64encode(secret.encode()).decode().rstrip("=")
        self._key = PyJWK({"kty": "oct", "alg": DEVELOPMENT_ALGORITHM, "k": octets})

    async def key(self, key_id: str | None) -> PyJWK:
        """Raises UnknownKey for any other id than that of the development key."""
        if key_id != DEVELOPMENT_KEY_ID:
            raise UnknownKey
        return self._key

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return
