"""Serve an old value while a new one is computed, or while the database is away."""
