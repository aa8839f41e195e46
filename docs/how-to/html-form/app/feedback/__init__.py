"""Serve a page with a form."""
