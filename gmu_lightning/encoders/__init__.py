"""Encoders: one modality's stored inputs -> `Features`. Importing this room loads no network library."""
