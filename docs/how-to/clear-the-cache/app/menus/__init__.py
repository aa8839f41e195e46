"""Invalidate everything, for example after a deploy."""
