"""Use a second database."""
