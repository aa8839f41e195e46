"""What people can do about their own sessions."""
