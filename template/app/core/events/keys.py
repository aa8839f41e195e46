"""The names of everything that events keep in Redis.

All that belongs to one publisher shares a hash tag, so that a cluster keeps it in one place.
"""


def stream(publisher: str) -> str:
    return f"{publisher}:events:{{{publisher}}}:stream"


def history(publisher: str) -> str:
    """The replication id of the server, as it was when the life of the stream began."""
    return f"{publisher}:events:{{{publisher}}}:history"


def loss(publisher: str) -> str:
    """After which event the server has forgotten some, if that is not long ago.

    Its name ends as that of the stream, so that who may read the one may read the other.
    """
    return f"{publisher}:events:{{{publisher}}}:loss:stream"


def sent(publisher: str, sender: str) -> str:
    """The last batch of one process that is in the stream."""
    return f"{publisher}:events:{{{publisher}}}:sent:{sender}"


def channel(publisher: str) -> str:
    return f"{publisher}:events"


def position(subscriber: str, publisher: str) -> str:
    """Up to where a service has handled the stream."""
    return f"{subscriber}:events:{{{publisher}}}:position"


def turn(subscriber: str, publisher: str) -> str:
    """Which process of the service handles it."""
    return f"{subscriber}:events:{{{publisher}}}:turn"
