"""Keys that this process leaves alone for a moment."""

from time import monotonic

_PRUNE_AT = 4096


class Backoff:
    """Remembers keys for a number of seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._prune_at = _PRUNE_AT

    def set(self, key: str, seconds: float) -> None:
        if len(self._until) >= self._prune_at:
            now = monotonic()
            self._until = {key: until for key, until in self._until.items() if until > now}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._until))  # not again at once
        self._until[key] = monotonic() + seconds

    def holds(self, key: str) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if until > monotonic():
            return True
        del self._until[key]
        return False
