"""Measurements of what the project promises about speed and size: `make bench` prints them as a table.

They are no tests: a slow machine fails nothing.
"""
