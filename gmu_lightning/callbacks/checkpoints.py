"""best.ckpt and last.ckpt: written beside their name and renamed, so that no crash and no full disk costs the previous one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gmu_lightning.files import write_atomically
from gmu_lightning.lightning import pl


class AtomicCheckpointIO(pl.plugins.TorchCheckpointIO):
    """Lightning's own stages the file in the temporary folder and then moves it, which can destroy the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """`torch.save` to a temporary file beside `path`, flushed, renamed."""
        write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def best_and_last(folder: Path, monitor: str) -> tuple[pl.callbacks.ModelCheckpoint, pl.callbacks.ModelCheckpoint]:
    """best.ckpt: the weights of the epoch with the highest `monitor`, the earliest of equals; last.ckpt: all state."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
    best = pl.callbacks.ModelCheckpoint(filename="best", monitor=monitor, mode="max", save_weights_only=True, **common)
    last = pl.callbacks.ModelCheckpoint(filename="last", monitor=None, save_on_train_epoch_end=True, **common)
    return best, last
