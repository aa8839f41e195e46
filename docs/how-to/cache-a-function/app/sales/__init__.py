"""Reports: what takes long to compute, and is cached."""
