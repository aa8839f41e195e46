"""Refer to a row of another feature (foreign keys)."""
