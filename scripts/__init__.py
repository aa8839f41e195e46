"""Programs for working on the template."""
