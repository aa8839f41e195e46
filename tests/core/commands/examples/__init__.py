"""Commands for the tests of commands."""
