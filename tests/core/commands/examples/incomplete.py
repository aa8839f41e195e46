"""Is no command yet."""
