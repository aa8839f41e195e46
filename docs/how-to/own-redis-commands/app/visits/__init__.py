"""Use Redis for something of your own."""
