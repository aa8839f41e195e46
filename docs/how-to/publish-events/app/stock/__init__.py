"""Tell other services what changed, and hear what changed there."""
