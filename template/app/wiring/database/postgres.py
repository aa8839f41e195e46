"""PostgreSQL."""

from app.core.service import Service
from app.database.engine import Database
from app.database.postgres import create_database
from app.settings.database.postgres import DatabaseSettings
from app.wiring.database.replica import install_replicated


def install_database(service: Service, settings: DatabaseSettings) -> Database:
    """Install PostgreSQL."""
    return install_replicated(service, settings, create_database)
