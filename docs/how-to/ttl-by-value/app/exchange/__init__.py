"""Let the value decide how long it is cached, or not at all."""
