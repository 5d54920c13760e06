"""The configuration of a run: groups on disk, resolution, types and ranges, and the identity of a run."""
