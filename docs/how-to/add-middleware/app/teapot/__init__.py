"""Add a middleware."""
