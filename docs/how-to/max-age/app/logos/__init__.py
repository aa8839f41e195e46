"""Let browsers and clients keep an answer (what `max_age` means)."""
