"""Whether a secret of the settings is fit for production."""

_MIN_SECRET = 43  # characters: 32 random bytes as base64
_MIN_VARIETY = 12


def weakness(secret: str, *, development: str) -> str | None:
    """What makes a secret unfit to keep anything safe; None if nothing obvious does.

    `development` is the one that everybody knows.
    """
    if secret == development:
        return "is the one for development, which everybody knows"
    if len(secret) < _MIN_SECRET:
        return f"has {len(secret)} characters, and needs at least {_MIN_SECRET}"
    if len(set(secret)) < _MIN_VARIETY:
        return "repeats a few characters, and has to be random"
    return None
