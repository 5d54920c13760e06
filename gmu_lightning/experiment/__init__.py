"""Configuration -> data, model, trainer, run: the only room that knows both Hydra and the classes."""
