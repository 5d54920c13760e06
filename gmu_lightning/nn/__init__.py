"""Layers that encoders, fusions and the model share."""
