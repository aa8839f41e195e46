"""Test what happens when the ttl is over."""
