"""Predict new movies with finished runs, from raw contents and without any training data."""
