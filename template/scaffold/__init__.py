"""Begins features: `make feature NAME=products` copies things under another name."""
