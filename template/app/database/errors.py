"""What every database raises."""


class DatabaseUnavailable(Exception):
    """The database did not answer: it is away, too slow, or all connections are busy."""
