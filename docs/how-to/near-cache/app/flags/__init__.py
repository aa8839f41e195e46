"""Answer from the memory of the process (near cache)."""
