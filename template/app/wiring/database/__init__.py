"""The database that was chosen."""
