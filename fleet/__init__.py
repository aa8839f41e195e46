"""One template over many repositories: what an update would do to each, and doing it."""
