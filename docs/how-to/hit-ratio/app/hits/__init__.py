"""See the hit ratio now."""
