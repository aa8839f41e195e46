"""Report errors to Sentry."""
