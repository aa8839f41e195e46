"""Let only one process at a time do something (a lock)."""
