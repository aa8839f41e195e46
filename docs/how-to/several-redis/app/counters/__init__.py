"""Use several Redis: sessions and locks apart from the cache."""
