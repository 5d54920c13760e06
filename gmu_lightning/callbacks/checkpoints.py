"""Write checkpoints from which a killed run continues with the same bits.

Lightning's own checkpoints do not continue exactly. They are saved before a plateau's step and before the verdict of early
stopping, they lack the mean loss of a half epoch, and their counters differ from hook to hook. Here all of these are saved, only
at moments when nothing is half done, with counters in one form.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from gmu_lightning.callbacks.history import History
from gmu_lightning.callbacks.interruption import Interruption, SafelyStopped
from gmu_lightning.files import write_atomically
from gmu_lightning.lightning import pl
from gmu_lightning.run import Run

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
GRACE = 5.0  # seconds that a validation may still take after a signal


class AtomicCheckpointIO(pl.plugins.TorchCheckpointIO):
    """Save checkpoints by a rename within their folder.

    Lightning's own class writes to the system's temporary folder and then moves the file, which can destroy the previous one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint to a temporary file beside `path`, flush it to disk and rename it.

        Args:
            checkpoint: plain containers and tensors.
            path: of the file.
            storage_options: {`keep`: path to which an existing file is renamed just before}; None replaces it.

        Raises:
            OSError: the disk refuses the file, as a full one does.
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

        write_atomically(Path(path), write, keep=(storage_options or {}).get("keep"))


class Checkpoints(pl.callbacks.Checkpoint):
    """Write best.ckpt, the weights after the best validation, and last.ckpt, all state, to a folder.

    last.ckpt is written after every epoch, within an epoch every `every` seconds, and when a signal is pending, which then ends
    the fit. The previous last.ckpt stays beside it as previous.ckpt. It is written only between two updates of the weights, and
    within an epoch only where no validation follows.

    Lightning calls this callback after all others.

    Args:
        run: files are written as long as it is this process's.
        folder: of the files.
        monitor: a higher score is better; of equal scores the earlier one is the best.
        history: gives the scores.
        interruption: holds signals back while the fit runs.
        batches: everything besides the configuration and the data that decides which numbers an update sees.
        every: seconds.

    Attributes:
        best_epoch: number of the best epoch, counted from 0; None before any.
        seconds: duration of earlier fits of this run, from which it continues.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        monitor: str,
        history: History,
        interruption: Interruption,
        batches: dict[str, Any],
        every: float,
    ):
        self.run, self.folder, self.monitor, self.history = run, folder, monitor, history
        self.interruption, self.batches, self.every = interruption, batches, every
        self.best_epoch: int | None = None
        self.best_score = float("-inf")
        self.seconds = 0.0
        self._began = self._saved = self._validating = time.perf_counter()
        self._position = (0, 0)  # of the checkpoint that is being saved: the next epoch, and its batches that are done

    def on_train_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Start the clock. Take the signals back from Lightning, which would end the fit after a batch, saved or not."""
        self.interruption.listen()
        self._began = self._saved = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save the state if it is time and nothing is half done. Raises SafelyStopped if a signal is pending."""
        done = batch_idx + 1
        half_done = done % trainer.accumulate_grad_batches or trainer.should_stop
        if half_done or done >= trainer.num_training_batches or _validates_after(trainer, done):
            return
        stop = self.interruption.pending is not None
        due = stop or time.perf_counter() - self._saved >= self.every
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save(trainer, (trainer.current_epoch, done))
        if stop:
            raise SafelyStopped

    def on_validation_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Note the time."""
        self._validating = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Raise SafelyStopped if a signal is pending and the validation would take longer than `GRACE`."""
        if self.interruption.pending is None or trainer.world_size > 1:
            return
        left = sum(trainer.num_val_batches) - batch_idx - 1
        if (time.perf_counter() - self._validating) / (batch_idx + 1) * left > GRACE:
            raise SafelyStopped

    def on_validation_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Write best.ckpt if the validation within a fit gave the highest score so far."""
        score = self.history.latest.get(self.monitor) if self.history.fitting else None
        if score is not None and score > self.best_score:
            self.best_score, self.best_epoch = score, trainer.current_epoch
            self.run.refuse_other_owner()
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Save the state. Raises SafelyStopped if a signal is pending and epochs are left."""
        over = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        self._save(trainer, (trainer.current_epoch + 1, 0))
        stop = self.interruption.pending is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and not over:
            raise SafelyStopped

    def _save(self, trainer: pl.Trainer, position: tuple[int, int]) -> None:
        self.run.refuse_other_owner()
        self._position = position
        trainer.save_checkpoint(self.folder / LAST, storage_options={"keep": self.folder / PREVIOUS})
        self._saved = time.perf_counter()

    def on_save_checkpoint(self, trainer: pl.Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Add the entry `resume`, and give Lightning's counters the form that they have between two batches or two epochs."""
        epoch, done = self._position
        fit = checkpoint["loops"]["fit_loop"]
        counters = fit["epoch_loop.batch_progress" if done else "epoch_progress"]
        for part in (counters["total"], counters["current"]):
            part["completed"] = part["processed"]
        if done:
            fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        checkpoint["resume"] = {
            "epoch": epoch,
            "batch": done,
            "batches": self.batches,
            "data_fingerprint": dict(self.history.predictions.table.fingerprint),
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "stopped": trainer.should_stop,
            "seconds": self.seconds + time.perf_counter() - self._began,
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint: the best score so far, and whether early stopping has ended the training."""
        resume = checkpoint["resume"]
        self.best_epoch, self.best_score, self.seconds = resume["best_epoch"], resume["best_score"], resume["seconds"]
        trainer.should_stop = resume["stopped"]


def _validates_after(trainer: pl.Trainer, done: int) -> bool:
    """Return whether a validation follows the batch with which `done` batches of the epoch are done."""
    every = trainer.val_check_batch
    return isinstance(every, int) and done % every == 0
