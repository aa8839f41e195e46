"""Commands of this service: a module for each, `python -m app.commands` lists them."""
