"""Real topologies and faults for the tests of the core."""
