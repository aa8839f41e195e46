"""Rankings of sports, which take long to compute."""
