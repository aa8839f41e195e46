"""List with filters, search and pages, cached."""
