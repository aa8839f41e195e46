"""Products, and how many there are of each."""
