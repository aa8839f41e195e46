"""The example of who may log in: accounts with passwords, and sessions. It is yours."""
