"""The public keys of the issuer of the tokens, kept fresh.

They come as a JSON Web Key Set (RFC 7517) from a URL or a file. A new key is found by its id: a
token that names an unknown one has the set fetched again. Anybody can cause that, so it happens at
most once in `min_interval`. A set that can be read is believed as a whole: a key that is missing in
it was withdrawn, even if none is left. While the issuer is away, or answers something else, the
known keys stay valid for `max_age`.
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
from app.core.tasks import Tasks

log = structlog.get_logger(__name__)

_MAX_SET_BYTES = 256 * 1024
_MIN_RSA_BITS = 2048  # RFC 7518, 3.3

DEVELOPMENT_KEY_ID = "development"
DEVELOPMENT_ALGORITHM = "HS256"


class KeysUnavailable(Exception):
    """No keys are known, or only old ones, so no token can be verified."""


class UnknownKey(Exception):
    """No key of the issuer has this id."""


class Keys(Protocol):
    """Where keys come from."""

    async def key(self, key_id: str | None) -> PyJWK:
        """Return the key with this id. Raises UnknownKey or KeysUnavailable."""

    async def check(self) -> None:
        """Raise KeysUnavailable if no token could be verified now."""

    async def close(self) -> None: ...


class JwksClient:
    """The key set at one location."""

    def __init__(
        self,
        location: str,
        *,
        refresh_after: float = 600.0,
        max_age: float = 86_400.0,
        min_interval: float = 10.0,
        timeout: float = 3.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Make a client that has fetched nothing yet.

        Args:
            location: a URL (https://...) or the path of a file.
            refresh_after: the age, in seconds, at which keys are fetched again in the background;
                a key that its issuer has withdrawn may be believed for so long.
            max_age: the age, in seconds, up to which keys are believed while none can be fetched.
            min_interval: the shortest time between two fetches, in seconds.
            timeout: the longest that one fetch may take, in seconds.
            clock: tells seconds.
        """
        self._location = location
        self._refresh_after = refresh_after
        self._max_age = max_age
        self._min_interval = min_interval
        self._timeout = timeout
        self._clock = clock
        self._keys: Mapping[str | None, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    async def key(self, key_id: str | None) -> PyJWK:
        """Return the key with this id; without one, the only key there is.

        Raises:
            UnknownKey: there is none, even after a look whether it is new.
            KeysUnavailable: nothing could be fetched so far, or for too long.
        """
        await self.check()
        if key_id not in self._keys:
            await self._refresh()
        elif self._age > self._refresh_after:
            self._start_fetch()
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownKey from None

    async def check(self) -> None:
        """Fetch keys if there are none, or only old ones.

        Raises:
            KeysUnavailable: none could be fetched.
        """
        if self._age > self._max_age:
            await self._refresh()
        if self._age > self._max_age:
            raise KeysUnavailable(f"no keys from {self._location} for {self._max_age:g} s")

    async def close(self) -> None:
        await self._tasks.stop()

    @property
    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        if (fetch := self._start_fetch()) is not None:
            # A caller that is cancelled does not end the fetch that others wait for.
            await asyncio.shield(fetch)

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, or a new one unless the last is too recent."""
        if self._fetch is not None and not self._fetch.done():
            return self._fetch
        if self._clock() - self._tried_at < self._min_interval:
            return None
        self._tried_at = self._clock()
        self._fetch = self._tasks.start(self._load())
        return self._fetch

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                self._keys = _verification_keys(await self._read())
        except Exception as error:  # of the network, of a library, of whatever is there
            metrics.key_fetches.labels("failed").inc()
            log.warning("access.keys_not_fetched", location=self._location, error=repr(error))
            return
        self._fetched_at = self._clock()
        metrics.key_fetches.labels("fetched").inc()

    async def _read(self) -> bytes:
        if "://" not in self._location:
            return await asyncio.to_thread(Path(self._location).read_bytes)
        async with (
            httpx2.AsyncClient(timeout=self._timeout) as client,
            client.stream("GET", self._location) as response,
        ):
            response.raise_for_status()
            text = b""
            async for chunk in response.aiter_bytes():
                text += chunk
                if len(text) > _MAX_SET_BYTES:
                    raise ValueError(f"more than {_MAX_SET_BYTES} bytes")
            return text


def _verification_keys(text: bytes) -> dict[str | None, PyJWK]:
    """Return the keys of a set that verify signatures, by id.

    Raises:
        ValueError: the text is not a set of keys.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError('it is not a set of keys: {"keys": [{...}]}')
    found: dict[str | None, PyJWK] = {}
    for entry in entries:
        if (key := _verification_key(entry)) is not None:
            found[key.key_id] = key
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    else:
        found.pop(None, None)
    if not found:
        log.warning("access.no_key_usable", entries=len(entries))
    return found


def _verification_key(entry: dict[str, Any]) -> PyJWK | None:
    """Return the key of an entry; None if it must not verify signatures."""
    # A secret that was published by mistake verifies nothing, nor does its public key.
    if entry.get("use") == "enc" or entry.get("kty") == "oct" or "d" in entry:
        return None
    if not isinstance(entry.get("kid"), str | None):
        return None
    try:
        key = PyJWK(entry)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("access.key_unusable", key=entry.get("kid"), error=repr(error))
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _MIN_RSA_BITS:
        log.warning("access.key_too_short", key=key.key_id, bits=key.key.key_size)
        return None
    return key


class DevelopmentKeys:
    """One secret that everybody knows, so that development needs no issuer of tokens."""

    def __init__(self, secret: str) -> None:
        octets = urlsafe_b64encode(secret.encode()).decode().rstrip("=")
        self._key = PyJWK({"kty": "oct", "alg": DEVELOPMENT_ALGORITHM, "k": octets})

    async def key(self, key_id: str | None) -> PyJWK:
        """Return the development key. Raises UnknownKey for any other id."""
        if key_id != DEVELOPMENT_KEY_ID:
            raise UnknownKey
        return self._key

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return
