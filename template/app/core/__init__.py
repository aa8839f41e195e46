"""The template's part of the service: read it freely; `copier update` keeps it current."""
