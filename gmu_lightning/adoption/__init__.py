"""Adopt predictions that were made elsewhere: read them from tables, check them, and write them as runs."""
