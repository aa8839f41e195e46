"""The wiring of the parts: a file for each, whose `install_...` puts it into the service.

Updates maintain these files. What a service changes is a setting, or the lines of `main.py`.
"""
