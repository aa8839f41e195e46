"""Cache a route."""
