"""Wrong arguments are refused at once: Redis would take some of them for something else."""

import math

MIN_TTL = 0.1
_MAX_NAME_BYTES = 512


def check_name(name: object) -> None:
    """Raise ValueError unless `name` can name a lock."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a lock is a text of at least one character, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the name of a lock has to be valid Unicode, not {name!r}") from None
    if size > _MAX_NAME_BYTES:
        raise ValueError(f"the name of a lock takes at most {_MAX_NAME_BYTES} bytes, not {size}")


def check_prefix(prefix: str) -> None:
    """Raise ValueError unless `prefix` can start the key of a lock."""
    check_name(prefix)
    if "{" in prefix or "}" in prefix:
        raise ValueError(f"the prefix {prefix!r} has a brace, which would take over the hash tag")


def check_seconds(what: str, value: object, *, least: float, most: float = math.inf) -> None:
    """Raise ValueError unless `value` is a finite number of seconds from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is a finite number of seconds, not {value!r}")
    if value < least:
        raise ValueError(f"{what} is at least {least} s, not {value!r}")
    if value > most:
        raise ValueError(f"{what} is at most {most} s, not {value!r}")
