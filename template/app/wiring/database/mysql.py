"""MySQL."""

from app.core.service import Service
from app.database.engine import Database
from app.database.mysql import create_database
from app.settings.database.mysql import DatabaseSettings
from app.wiring.database.sql import install_sql


def install_database(service: Service, settings: DatabaseSettings) -> Database:
    """Install MySQL."""
    return install_sql(service, settings, create_database)
