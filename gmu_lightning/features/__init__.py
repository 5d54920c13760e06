"""Compute the features of frozen encoders once, and read them from the store."""
