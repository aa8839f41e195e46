"""PostgreSQL, through asyncpg."""

from sqlalchemy.ext.asyncio import create_async_engine

from app.database.engine import Database


def create_database(url: str, *, pool_size: int, pool_timeout: float, timeout: float) -> Database:
    """Make the database; connects on first use. All times in seconds."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        # A connection that died while it was idle is replaced, not handed out.
        pool_pre_ping=True,
        connect_args={
            "timeout": timeout,
            "command_timeout": timeout,
            # The server gives up too, and does not go on with what nobody waits for.
            "server_settings": {"statement_timeout": str(round(timeout * 1000))},
        },
    )
    return Database(engine, timeout=timeout)
