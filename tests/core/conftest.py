"""What the tests of all parts have in common."""

from hypothesis import HealthCheck, settings

# How long an example takes is up to the machine.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
