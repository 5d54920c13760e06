"""Encoders turn one modality's stored inputs into `Features`. Importing this package loads neither transformers nor timm."""
