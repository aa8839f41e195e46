"""Whether the secrets of the settings are strong enough for production.

No test can prove that a text is random. This finds what obviously is not: secrets that are
published, short, or follow a pattern.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from math import log2

PUBLISHED = "for-development-only"
"""Part of every secret that is in the code, so that each is recognised wherever it is used."""

SHORTEST = 43
"""Characters: 32 random bytes as base64."""
_LEAST_BITS = 70  # of 32 random hexadecimal digits, 1 of 100,000 is judged to have less than 80
_LEAST_BESIDES = 12  # letters of a password that has a placeholder's word in it, besides that
_PLACEHOLDERS = ("changeme", "changethis", "example", "password", "placeholder", "replaceme")
# Defaults and examples of images, manuals and tutorials.
_DEFAULT_PASSWORDS = frozenset(
    {
        *("admin", "administrator", "default", "development", "foobared", "guest", "letmein"),
        *("minioadmin", "mysql", "pass", "passw0rd", "password", "postgres", "postgresql", "redis"),
        *("root", "test", "toor", "user", "valkey", "1234", "123456", "12345678"),
    }
)


def weakness(secret: str, *, shortest: int = SHORTEST) -> str | None:
    """Return why a secret is too weak; None if nothing obvious is wrong with it."""
    if PUBLISHED in secret.lower():
        return "is the one for development, which everybody knows"
    if _is_placeholder(secret):
        return "is a placeholder, and has to be random"
    if len(secret) < shortest:
        return f"has {len(secret)} characters, and needs at least {shortest}"
    if _bits(secret) < _LEAST_BITS:
        return "repeats itself or follows a pattern, and has to be random"
    return None


def weaknesses(
    what: str, setting: str, secrets: Sequence[str], *, shortest: int = SHORTEST
) -> list[str]:
    """Return a line for each weak secret of a setting that has several."""
    return [
        f"{what} {place} of {setting} {why}: make one with `openssl rand -base64 32`"
        for place, secret in enumerate(secrets, start=1)
        if (why := weakness(secret, shortest=shortest))
    ]


def is_default_password(password: str, *, username: str | None = None) -> bool:
    """Return whether a (decoded) password is one that attackers try first."""
    word = password.lower()
    # `orders-password-` followed by enough random characters is a good password.
    is_placeholder = _is_placeholder(word) and len(_besides_placeholders(word)) < _LEAST_BESIDES
    known = PUBLISHED in word or is_placeholder or word in _DEFAULT_PASSWORDS
    return known or (username is not None and word == username.lower())


def shared(secrets: Mapping[str, Iterable[str]], passwords: Mapping[str, str]) -> list[str]:
    """Return a line for each pair of settings that have the same secret.

    Servers may share a password with each other, but not with a secret of the service itself.
    """
    all_of_them = {**secrets, **{name: [password] for name, password in passwords.items()}}
    return [
        f"{one} and {other} have the same secret: give each its own"
        for one, other in combinations(all_of_them, 2)
        if one in secrets and set(all_of_them[one]) & set(all_of_them[other])
    ]


def _is_placeholder(secret: str) -> bool:
    return _besides_placeholders(secret) != _letters(secret)


def _besides_placeholders(secret: str) -> str:
    rest = _letters(secret)
    for placeholder in _PLACEHOLDERS:
        rest = rest.replace(placeholder, "")
    return rest


def _letters(secret: str) -> str:
    return secret.lower().replace("-", "").replace("_", "").replace(" ", "")


def _bits(secret: str) -> float:
    """Estimate the entropy (Shannon): of the characters, or of the steps between them if that is
    less (`abcdef...`), for as many characters as do not repeat others."""
    steps = [ord(after) - ord(before) for before, after in pairwise(secret)]
    triples = {secret[place : place + 3] for place in range(len(secret) - 2)}
    return (len(triples) + 2) * min(_entropy(secret), _entropy(steps))


def _entropy(symbols: Sequence[object]) -> float:
    """Return the bits per symbol."""
    shares = [count / len(symbols) for count in Counter(symbols).values()]
    return -sum(share * log2(share) for share in shares)
