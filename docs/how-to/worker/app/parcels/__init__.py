"""Parcels that are to be sent."""
