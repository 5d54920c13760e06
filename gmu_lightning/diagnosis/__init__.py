"""Diagnose a fitted model: what its gates, its interactions and its modalities are worth on the movies of a split."""
