"""Cache a query for several keys at once."""
