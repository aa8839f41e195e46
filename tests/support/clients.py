"""Clients of one server, for tests that need the methods that a cluster's client does not have."""

from redis.asyncio import Redis

from app.core.redis import ClientOptions, create_client


def standalone_client(url: str, options: ClientOptions) -> Redis:
    """Make a client of a single server."""
    client = create_client(url, options)
    assert isinstance(client, Redis)
    return client
