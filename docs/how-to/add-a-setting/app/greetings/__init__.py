"""Add a setting."""
