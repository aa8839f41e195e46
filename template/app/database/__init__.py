"""The database that was chosen: bounded waits, and a clear error when it is away."""

from app.database.errors import DatabaseUnavailable

__all__ = ["DatabaseUnavailable"]
