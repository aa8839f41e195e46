"""Headers that have browsers treat responses as what they are: data, and nobody else's to frame."""

from app.core.responses import AddedHeaders, Headers

API_POLICY = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
"""The Content-Security-Policy of a service that answers with data. It loads and runs nothing,
whatever somebody manages to have shown as a page."""

_NO_FRAMES = "frame-ancestors 'none'"
_KEYWORDS = frozenset({"none", "self", "unsafe-inline", "unsafe-eval", "strict-dynamic"})


def check_policy(policy: str) -> str:
    """Return a Content-Security-Policy.

    Raises:
        ValueError: it is no header, or means something else than it seems to.
    """
    if not policy.isprintable() or not policy.isascii():
        raise ValueError("is one line of ASCII")
    for word in policy.replace(";", " ").split():
        if word in _KEYWORDS:
            raise ValueError(f"has {word} for a host: with quotes, '{word}', it is the keyword")
    return policy


def security_headers(*, policy: str, hsts_seconds: int) -> tuple[AddedHeaders, AddedHeaders]:
    """Return the headers of responses over http, and of those over https.

    A response that has its own of one of them keeps it.

    Args:
        policy: the Content-Security-Policy; none if it is empty.
        hsts_seconds: how long browsers are to use nothing but https for this host; 0: as they like.
            Over http that would mean nothing (RFC 6797, 7.2).
    """
    headers: Headers = [
        (b"x-content-type-options", b"nosniff"),
        # Not `no-referrer`: with that browsers send a form with `Origin: null`.
        (b"referrer-policy", b"same-origin"),
    ]
    if policy:
        headers.append((b"content-security-policy", policy.encode()))
    if _NO_FRAMES in policy:  # the same for browsers that do not know that part of a policy
        headers.append((b"x-frame-options", b"DENY"))
    hsts = (b"strict-transport-security", b"max-age=%d" % hsts_seconds)
    return AddedHeaders(headers), AddedHeaders([*headers, hsts] if hsts_seconds else headers)
