"""Write best.ckpt and last.ckpt atomically, so that a crash or a full disk leaves the previous checkpoint intact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gmu_lightning.files import write_atomically
from gmu_lightning.lightning import pl


class AtomicCheckpointIO(pl.plugins.TorchCheckpointIO):
    """Save checkpoints by a rename within their folder.

    Lightning's own class writes to the system's temporary folder and then moves the file, which can destroy the previous one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint to a temporary file beside `path`, flush it to disk and rename it. `storage_options` is unused.

        Raises OSError if the disk refuses the file, as a full one does.
        """

        def write(temporary: Path) -> None:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch raises an error of its own while it handles that of the disk, or Ctrl-C
                if isinstance(error.__context__, OSError | KeyboardInterrupt):
                    raise error.__context__ from error
                raise

        write_atomically(Path(path), write)


def best_and_last(folder: Path, monitor: str) -> tuple[pl.callbacks.ModelCheckpoint, pl.callbacks.ModelCheckpoint]:
    """Return the callbacks that write best.ckpt and last.ckpt to `folder`.

    best.ckpt holds the weights of the epoch with the highest `monitor`, the earliest of equals. last.ckpt holds all state of the
    last epoch.

    Args:
        folder: of the checkpoints.
        monitor: such as `val/ap_micro`.
    """
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
    best = pl.callbacks.ModelCheckpoint(filename="best", monitor=monitor, mode="max", save_weights_only=True, **common)
    last = pl.callbacks.ModelCheckpoint(filename="last", monitor=None, save_on_train_epoch_end=True, **common)
    return best, last
