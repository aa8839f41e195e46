"""Real servers for development and tests, on a machine that has none."""
