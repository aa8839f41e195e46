"""A database that may have a replica."""

from collections.abc import Callable

from app.core.read_scope import LaggingReads
from app.core.service import Layer, Service
from app.database.engine import Database
from app.database.replica import Replica, ReplicatedDatabase
from app.settings.database.replica import ReplicaSettings
from app.wiring.database.sql import install_sql


def install_replicated(
    service: Service, settings: ReplicaSettings, create_database: Callable[..., Database]
) -> Database:
    """Install the database that this function makes, and its replica if there is one."""
    url = settings.database_read_url.get_secret_value()
    if not url:
        return install_sql(service, settings, create_database)
    replica = create_database(
        url,
        pool_size=settings.database_read_pool_size,
        pool_timeout=settings.database_pool_timeout,
        timeout=settings.database_timeout,
        connect_args=settings.database_read_connect_args,
        is_replica=True,
    )
    service.open(replica)
    in_its_place = Replica(replica, limit=max(1, settings.database_pool_size // 2))
    database = install_sql(service, settings, create_database, replica=in_its_place)
    assert isinstance(database, ReplicatedDatabase)
    service.check("database_replica", database.check_replica)
    service.middleware(LaggingReads, layer=Layer.INSIDE_CACHE)
    return database
