"""The commands: they compose the configuration that was typed, do the task, and end an error in one sentence."""
