"""Progress for people who do not watch a terminal: a line an epoch."""

from __future__ import annotations

import sys
from typing import Any

from gmu_lightning.lightning import pl


class EpochLines(pl.Callback):
    """One plain line per epoch on stderr: losses and the score that is monitored."""

    def __init__(self, monitor: str):
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """The line."""
        seen = trainer.callback_metrics
        words = [f"{name} {float(seen[name]):.4f}" for name in ("train/loss", "val/loss", self.monitor) if name in seen]
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  " + "  ".join(words), file=sys.stderr, flush=True)
