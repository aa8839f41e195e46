"""What the service tells the outside about itself: logs, metrics, health."""
