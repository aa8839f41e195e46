"""Test without the cache, or with an empty one."""
