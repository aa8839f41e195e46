"""Answer with an error of your own."""
