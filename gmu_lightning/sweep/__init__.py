"""Sweeps: the jobs of a cross product, the launchers and the search that run them, and the files of the sweep."""
