"""Cache that something does not exist (404)."""
