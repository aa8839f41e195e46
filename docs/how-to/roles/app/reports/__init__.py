"""Reports, which editors write and read."""
