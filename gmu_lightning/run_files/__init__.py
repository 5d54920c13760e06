"""Readers of what runs and sweeps leave: a file from a stranger is data, and a damaged one is named in a sentence."""
