"""The names of everything a lock keeps in Redis."""

from binascii import crc32


class LockKeys:
    """Keys of one service; the keys of one lock share a hash tag, so a cluster keeps them together.

    A server's memory marker has to live in the same hash slot as the locks it speaks for, so a
    cluster has one per tag. More tags spread the locks better and cost more markers.
    """

    def __init__(self, prefix: str, *, tags: int) -> None:
        self.prefix = prefix
        self._tags = tags

    def lock(self, name: str) -> str:
        return f"{self.prefix}:{{{self._tag(name)}}}:held:{name}"

    def fence(self, name: str) -> str:
        return f"{self.prefix}:{{{self._tag(name)}}}:fence:{name}"

    def marker(self, name: str) -> str:
        return f"{self.prefix}:{{{self._tag(name)}}}:memory"

    def markers(self) -> list[str]:
        return [f"{self.prefix}:{{{tag}}}:memory" for tag in range(self._tags)]

    def channel(self, name: str) -> str:
        return f"{self.prefix}:released:{name}"

    def _tag(self, name: str) -> int:
        return crc32(name.encode()) % self._tags
