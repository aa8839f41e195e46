"""What the cache brings to this service, measured: `make bench`."""
