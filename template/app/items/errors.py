"""What can be wrong with a change."""


class ItemNotFound(Exception):
    """There is no such item."""


class VersionConflict(Exception):
    """Somebody else changed the item first; `current` is its version now."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the item is at version {current} now")
        self.current = current
