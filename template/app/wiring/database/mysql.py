"""MySQL."""

from app.core.service import Service
from app.database.engine import Database
from app.database.mysql import create_database
from app.settings.database.mysql import DatabaseSettings
from app.wiring.database.replica import install_replicated


def install_database(service: Service, settings: DatabaseSettings) -> Database:
    """Install MySQL."""
    return install_replicated(service, settings, create_database)
