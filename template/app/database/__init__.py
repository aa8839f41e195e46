"""The database: one pool of connections, transactions, and a clear error when it is away."""

from app.database.engine import Database, DatabaseUnavailable

__all__ = ["Database", "DatabaseUnavailable"]
