"""Readers of the files of runs and sweeps. Files of strangers are read as data, and a damaged file is named in a sentence."""
