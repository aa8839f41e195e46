"""The keys that sessions are encrypted with: the first one encrypts, all of them decrypt.

AES-256-GCM, under a key of each session's own. That keeps the nonce simple: random nonces are safe
for some 2^32 messages under one key, which a busy service would reach, and no single session does.
"""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DEVELOPMENT_SECRET = "for-development-only-everybody-knows-this-session-key"
_NAME_BYTES = 4
_NONCE_BYTES = 12


class Undecipherable(Exception):
    """No key of the ring opens a blob; `reason` is "retired" or "tampered"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    name: bytes
    key: bytes


class KeyRing:
    """Encrypts with the first secret, decrypts with each."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raise ValueError if there is no secret, or the same one twice."""
        if not secrets or not all(secrets):
            raise ValueError("a key ring needs at least one secret, and no empty one")
        if len(set(secrets)) < len(secrets):
            raise ValueError("a key ring has the same secret twice")
        keys = [_derived(secret) for secret in secrets]
        self._current = keys[0]
        self._keys = {key.name: key for key in reversed(keys)}

    def encrypt(self, plain: bytes, *, session: str, context: bytes) -> bytes:
        """Encrypt what belongs to one session, and to one `context` of it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = _cipher(self._current, session).encrypt(nonce, plain, context)
        return self._current.name + nonce + sealed

    def decrypt(self, blob: bytes, *, session: str, context: bytes) -> bytes:
        """Return what was encrypted for the same session and context.

        Raises:
            Undecipherable: its key is not in the ring, or it was encrypted for something else, or
                it is not as it was.
        """
        name, rest = blob[:_NAME_BYTES], blob[_NAME_BYTES:]
        if (key := self._keys.get(name)) is None:
            raise Undecipherable("retired")
        nonce, sealed = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        try:
            return _cipher(key, session).decrypt(nonce, sealed, context)
        except (InvalidTag, ValueError):  # ValueError: it is too short to be one
            raise Undecipherable("tampered") from None


def _cipher(key: _Key, session: str) -> AESGCM:
    return AESGCM(hmac.digest(key.key, session.encode(), "sha256"))


def _derived(secret: str) -> _Key:
    size = _NAME_BYTES + 32
    made = HKDF(SHA256(), size, salt=None, info=b"session key ring").derive(secret.encode())
    return _Key(made[:_NAME_BYTES], made[_NAME_BYTES:])
