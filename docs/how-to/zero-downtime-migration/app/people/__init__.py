"""Change a table without downtime (expand and contract)."""
