"""Limit the rate of requests, also of cached routes."""
