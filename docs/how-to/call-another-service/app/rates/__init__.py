"""Rates of exchange, which another service knows."""
