"""What all databases have that speak SQL."""

from collections.abc import Callable

from app.core.service import Service
from app.database import DatabaseUnavailable
from app.database.engine import Database
from app.settings.database.sql import SqlSettings


def install_sql(
    service: Service,
    settings: SqlSettings,
    create_database: Callable[..., Database],
    **options: object,
) -> Database:
    """Install the database that this function makes, with these options besides the settings."""
    database = create_database(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        pool_timeout=settings.database_pool_timeout,
        timeout=settings.database_timeout,
        connect_args=settings.database_connect_args,
        **options,
    )
    service.open(database)
    service.transient(DatabaseUnavailable, judge=database.is_transient)
    service.check("database", database.ping, critical=True)
    return database
