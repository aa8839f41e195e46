"""The public keys of whoever issues the tokens, kept fresh.

They come as a JSON Web Key Set (RFC 7517) from a URL or a file. A key that is new there is found by
its id: a token that names an unknown one has the set fetched again, which anybody can cause, so not
more often than `pause` allows. While the issuer is away, the keys that are known stay good.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Protocol

import httpx
import structlog
from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError

from app.core.access import metrics

log = structlog.get_logger(__name__)

_LARGEST = 256 * 1024

DEVELOPMENT_KEY_ID = "development"
DEVELOPMENT_ALGORITHM = "HS256"


class KeysUnavailable(Exception):
    """There are no keys yet, so no token can be judged."""


class UnknownKey(Exception):
    """No key of the issuer has this id."""


class Keys(Protocol):
    """Where keys come from."""

    async def key(self, key_id: str | None) -> PyJWK: ...

    async def close(self) -> None: ...


class KeySource:
    """The key set at one place."""

    def __init__(
        self, place: str, *, refresh: float = 600.0, pause: float = 10.0, timeout: float = 3.0
    ) -> None:
        """`place` is a URL (https://) or the path of a file.

        Args:
            refresh: the age, in seconds, at which keys are fetched again in the background; so
                long may a key that its issuer has taken back still be believed.
            pause: the least time between two fetches, in seconds.
            timeout: the longest that one fetch may take, in seconds.
        """
        self._place = place
        self._refresh = refresh
        self._pause = pause
        self._timeout = timeout
        self._keys: Mapping[str | None, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None) -> PyJWK:
        """The key with this id. Without one it has to be the only key there is.

        Raises:
            UnknownKey: there is none, also after a look whether it is new.
            KeysUnavailable: nothing could be fetched so far.
        """
        if key_id not in self._keys:
            await self._look()
        elif monotonic() - self._fetched_at > self._refresh:
            self._start()
        if not self._keys:
            raise KeysUnavailable(f"no keys from {self._place} yet")
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownKey from None

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
        if monotonic() - self._tried_at < self._pause:
            return None
        self._tried_at = monotonic()
        self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                self._keys = _by_id(await self._read())
        except (OSError, TimeoutError, httpx.HTTPError, ValueError, PyJWTError) as error:
            metrics.key_fetches.labels("failed").inc()
            log.warning("access.keys_unavailable", place=self._place, error=repr(error))
            return
        self._fetched_at = monotonic()
        metrics.key_fetches.labels("fetched").inc()

    async def _read(self) -> bytes:
        if "://" not in self._place:
            return await asyncio.to_thread(Path(self._place).read_bytes)
        async with (
            httpx.AsyncClient(timeout=self._timeout) as client,
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
    keys = [key for key in PyJWKSet.from_json(text.decode()) if key.public_key_use != "enc"]
    # A secret that was published by mistake verifies nothing.
    found: dict[str | None, PyJWK] = {key.key_id: key for key in keys if key.key_type != "oct"}
    if not found:
        raise ValueError("there is no public key in it that signs")
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    else:
        found.pop(None, None)
    return found


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

    async def close(self) -> None:
        return
