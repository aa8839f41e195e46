"""Do something after the answer is sent."""
