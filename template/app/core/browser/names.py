"""Origins and hosts as browsers send them."""

import re
from collections.abc import Collection

_ORIGIN = re.compile(r"https?://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_.-]*[a-z0-9_]|\[[0-9a-f:.]+\]", re.ASCII)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}


def check_origin(origin: str) -> str:
    """Return an origin.

    Raises:
        ValueError: it has not the form in which browsers send it (RFC 6454, 7), so that it would
            never be equal to what they send.
    """
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            "an origin is a scheme and a host in lower case, such as https://app.example, without "
            f"a path, a slash at the end or a wildcard, not {origin!r}"
        )
    scheme = origin.partition(":")[0]
    if origin.endswith(_DEFAULT_PORT[scheme]):
        raise ValueError(f"browsers leave out the port of {origin!r}: do so, too")
    return origin


def check_origins(origins: Collection[str]) -> frozenset[str]:
    """Return the origins as a set.

    Raises:
        ValueError: one has not the form in which browsers send it.
    """
    return frozenset(map(check_origin, origins))


def check_host(host: str) -> str:
    """Return the name of a host, or `*.` and a name for all hosts below it.

    Raises:
        ValueError: it is none.
    """
    if not _HOST.fullmatch(host):
        raise ValueError(
            "a host is a name in lower case without scheme and port, such as api.example, or "
            f"*.api.example for all below it, not {host!r}"
        )
    return host
