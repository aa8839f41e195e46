"""Session ids, and the names of everything a session keeps in Redis.

An id is a bucket and 256 random bits, made here and only here. Redis gets a digest of it, so who
reads Redis has nothing to put into a cookie. The digest needs no secret: nobody can guess an id to
try it against a name, and a secret would have to be kept for as long as there are sessions, while
the keys of the ring come and go.

The bucket is the hash tag. That of a logged-in session follows from its user, so a user's sessions
and the index of them are on one node of a cluster, and one script can change them together.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

_SECRET_BYTES = 32
_TEXT = re.compile(r"[A-Za-z0-9_-]{44}", re.ASCII)


def new_id(*, user: str | None = None, bucket: int | None = None) -> str:
    """An id that nobody has had: for a session of `user`, or in `bucket`, or of nobody yet."""
    if user is not None:
        bucket = _digest(b"user", user.encode())[0]
    elif bucket is None:
        bucket = secrets.randbelow(256)
    return urlsafe_b64encode(bytes([bucket]) + secrets.token_bytes(_SECRET_BYTES)).decode()


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id; nothing else is worth a question to Redis."""
    return _TEXT.fullmatch(text) is not None


def bucket_of(session_id: str) -> int:
    return urlsafe_b64decode(session_id[:4])[0]


def csrf_token(session_id: str) -> str:
    """The token that writes have to bring along. It says nothing about the id."""
    return urlsafe_b64encode(_digest(b"csrf", session_id.encode())).decode().rstrip("=")


class SessionKeys:
    """The keys of one service."""

    def __init__(self, prefix: str) -> None:
        """Raises ValueError if the prefix would take over the hash tag."""
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(f"the prefix of sessions is a text without braces, not {prefix!r}")
        self._prefix = prefix

    def session(self, session_id: str) -> str:
        return self.beside(session_id) + digest(session_id)

    def index(self, user: str) -> str:
        """Where the digests of a user's sessions are kept, by the time when they end."""
        name = _digest(b"user", user.encode())
        return f"{self._prefix}:{{{name[0]:02x}}}:user:{name.hex()}"

    def for_check(self) -> tuple[str, str]:
        """Two keys of no session, in one slot."""
        return f"{self._prefix}:{{00}}:check:session", f"{self._prefix}:{{00}}:check:user"

    def beside(self, session_id: str) -> str:
        """What the keys of all sessions in the same bucket begin with."""
        return f"{self._prefix}:{{{bucket_of(session_id):02x}}}:id:"

    def of_user(self, user: str) -> str:
        """What the keys of all sessions of a user begin with."""
        return f"{self._prefix}:{{{_digest(b'user', user.encode())[0]:02x}}}:id:"


def digest(session_id: str) -> str:
    return _digest(b"id", session_id.encode()).hex()


def _digest(purpose: bytes, text: bytes) -> bytes:
    return hmac.digest(b"session " + purpose, text, "sha256")
