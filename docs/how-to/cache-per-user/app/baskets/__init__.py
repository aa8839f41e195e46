"""Cache per user, tenant or language."""
