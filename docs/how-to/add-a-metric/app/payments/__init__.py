"""Add a metric, a log line or a health check of your own."""
