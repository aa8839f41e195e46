"""The generated service, measured beside what else one could use: `make bench`."""
