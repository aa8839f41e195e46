"""Upload files."""
