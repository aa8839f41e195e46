"""The example feature: copy it, change it, delete it. It is yours."""
