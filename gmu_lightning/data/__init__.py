"""Raw files -> Movie -> columns -> MovieBatch."""
