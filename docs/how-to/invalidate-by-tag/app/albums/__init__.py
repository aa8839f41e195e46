"""Invalidate what belongs together (tags)."""
