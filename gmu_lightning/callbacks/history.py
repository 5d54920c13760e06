"""Record each epoch as it ends: a row of history.csv, a line on stderr, and warnings if the run does not learn."""

from __future__ import annotations

import difflib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch

from gmu_lightning.callbacks.predictions import SplitPredictions
from gmu_lightning.decisions import Task
from gmu_lightning.files import write_rows
from gmu_lightning.lightning import pl
from gmu_lightning.metrics import scores
from gmu_lightning.movie import UserError
from gmu_lightning.run import Predictions, Run

FLAT = 0.97  # `flat_loss` warns if the last train loss exceeds this share of the first
FEWEST_EPOCHS = 3
SHOWN = ("loss", "accuracy", "f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", "ap_samples")


class Epochs:
    """Collect the rows of history.csv.

    Args:
        run: the run whose history.csv `write` writes.

    Attributes:
        rows: for each epoch, {column of history.csv: value}.
        scores: for each epoch, `val/loss` and every score of val, as `val_scores` returns them.
    """

    def __init__(self, run: Run):
        self.run = run
        self.rows: list[dict[str, Any]] = []
        self.scores: list[dict[str, float]] = []

    @classmethod
    def of(cls, run: Run, checkpoint: Mapping[str, Any]) -> Self:
        """Return the rows and scores that `History` added to a checkpoint."""
        found = cls(run)
        found.rows, found.scores = list(checkpoint["history"]["rows"]), list(checkpoint["history"]["scores"])
        return found

    def add(self, epoch: int, step: int, seconds: float, lr: float, loss: float, found: dict[str, float]) -> None:
        """Add the row of an epoch that has ended.

        Args:
            epoch: counted from 0.
            step: updates since the beginning of the run.
            seconds: duration of the epoch.
            lr: learning rate of the last update.
            loss: mean loss over the epoch's train movies.
            found: as `val_scores` returns it.

        Raises:
            UserError: the epoch's mean training loss or its val loss is not finite.
        """
        for name, value in (("training", loss), ("val", found["val/loss"])):
            if not math.isfinite(value):
                raise UserError(
                    f"the {name} loss became {value} in epoch {epoch}: "
                    "lower optimizer.lr, clip the gradient with trainer.gradient_clip_val=1.0, or use trainer.precision=32-true"
                )
        row = {"epoch": epoch, "step": step, "seconds": round(seconds, 4), "lr": lr, "train/loss": loss}
        self.rows.append(row | {f"val/{name}": found[f"val/{name}"] for name in SHOWN if f"val/{name}" in found})
        self.scores.append(found)

    def write(self, lasting: bool = True) -> None:
        """Write history.csv atomically, or nothing before the first epoch. `lasting` also flushes it to disk, for a power cut."""
        if self.rows:
            write_rows(self.run / "history.csv", self.rows, lasting=lasting)

    def warnings(self, monitor: str, at_train_shares: Mapping[str, float]) -> list[str]:
        """Return a warning for every sign that the run has not learned; none before `FEWEST_EPOCHS` epochs.

        Args:
            monitor: the score that chooses the best epoch, such as `val/ap_micro`.
            at_train_shares: the val scores of predicting each genre's train share for every movie, from `train_share_scores`.
        """
        if len(self.rows) < FEWEST_EPOCHS:
            return []
        epochs, found = f"in {len(self.rows)} epochs", []
        first, last = self.rows[0]["train/loss"], self.rows[-1]["train/loss"]
        if last > FLAT * first:
            found.append(f"flat_loss: the train loss went from {first:.4f} to {last:.4f} {epochs}: this run has not learned")
        for name in dict.fromkeys((monitor, "val/ap_micro")):
            values = [epoch[name] for epoch in self.scores]
            if max(values) <= at_train_shares.get(name, float("-inf")):
                found.append(
                    f"not_above_shares: {name} reached {max(values):.4f} {epochs}, and predicting each genre's share of train "
                    f"for every movie gives {at_train_shares[name]:.4f}: this run has learned nothing that helps on val"
                )
        values = [epoch[monitor] for epoch in self.scores]
        if values[0] > max(values[1:]):
            found.append(
                f"falling_val: {monitor} was {values[0]:.4f} after the first epoch and at most {max(values[1:]):.4f} after any "
                "later one: this run only got worse; lower optimizer.lr, or raise dropout"
            )
        return found


def train_share_scores(train: np.ndarray, val: np.ndarray, genres: Sequence[str], task: Task = "multilabel") -> dict[str, float]:
    """Return {`val/score`: value} of predicting each genre's share of train for every movie of val.

    Args:
        train, val: labels, (N, C) bool.
        genres: C names.
        task: of the labels. `multiclass` predicts the most frequent genre.
    """
    shares = np.broadcast_to(train.mean(axis=0), val.shape)
    return {f"val/{name}": value for name, value in scores(val, shares, genres, task=task).items()}


@torch.no_grad()
def loss_of(model: Any, split: Predictions) -> float:
    """Return the model's own loss over all movies of a split at once."""
    logits, labels = (torch.from_numpy(array).float().to(model.device) for array in (split.logits, split.labels))
    return float(model.loss(logits, labels))


def val_scores(model: Any, split: Predictions) -> dict[str, float]:
    """Return `val/loss` by the model's own loss, and {`val/score`: value} for every score of `metrics.scores`.

    Args:
        model: supplies `loss`, `monitor` and `device`.
        split: predictions of val.

    Raises:
        UserError: the monitored score is not among them.
    """
    found = {"val/loss": loss_of(model, split)}
    scored = scores(split.labels, split.probabilities, split.genres, task=split.task)
    found |= {f"val/{name}": value for name, value in scored.items()}
    if model.monitor not in found:
        close = difflib.get_close_matches(model.monitor, found, n=3)
        raise UserError(
            f"monitor={model.monitor} is no score of the val split: choose one like {', '.join(close or ['val/ap_micro'])}"
        )
    return found


class History(pl.Callback):
    """Score the validation split after each epoch, log the scores for the callbacks that monitor them, and record them.

    Must stand after `predictions` and before checkpoints and early stopping in the trainer's list.

    Attributes:
        epochs: the recorded epochs.
        fitting: whether a fit is running.
        latest: scores of the latest validation of the fit.
    """

    def __init__(self, run: Run, predictions: SplitPredictions):
        self.predictions = predictions
        self.epochs = Epochs(run)
        self.fitting = False
        self.latest: dict[str, float] = {}
        self._started = 0.0
        self._rate = 0.0
        self._loss: list[float] | None = None  # sum and weight of the train loss in a loaded checkpoint

    def on_fit_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Start recording: only validation passes within the fit are epochs."""
        self.fitting = True

    def on_fit_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Stop recording and write history.csv durably."""
        self.fitting = False
        if trainer.is_global_zero:
            self.epochs.write()

    def on_train_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Start the clock of an epoch that a loaded checkpoint left half done, and restore its mean loss."""
        self._started = time.perf_counter()
        if model.device.type != "mps":  # which has no float64
            model.train_loss.set_dtype(torch.float64)
        if self._loss is not None:
            here = trainer.is_global_zero  # the metric adds up over all processes
            model.train_loss.mean_value.fill_(self._loss[0] if here else 0.0)
            model.train_loss.weight.fill_(self._loss[1] if here else 0.0)

    def on_train_epoch_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Start the epoch's clock and reset its mean loss."""
        self._started = time.perf_counter()
        model.train_loss.reset()

    def on_before_optimizer_step(self, trainer: pl.Trainer, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Keep the learning rate of this update; at the epoch's end the optimizer already holds the next one."""
        self._rate = optimizer.param_groups[-1]["lr"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Compute and log the scores of the whole split."""
        if not self.fitting or self.predictions.latest is None:
            return
        self.latest = val_scores(model, self.predictions.latest)
        on_bar = {"val/loss", model.monitor}
        model.log_dict({name: value for name, value in self.latest.items() if name in on_bar}, prog_bar=True)
        others = {name: value for name, value in self.latest.items() if name not in on_bar}
        if trainer.loggers:
            model.log_dict(others)
        else:  # enough for callbacks that monitor a score; `log_dict` would take longer than the steps of a small epoch
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in others.items()})

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Add the epoch's row and rewrite history.csv."""
        loss = float(model.train_loss.compute())
        seconds = time.perf_counter() - self._started
        self.epochs.add(trainer.current_epoch, trainer.global_step, seconds, self._rate, loss, self.latest)
        model.log("train/loss", loss, prog_bar=True)
        if trainer.is_global_zero:
            self.epochs.write(lasting=False)

    def on_save_checkpoint(self, trainer: pl.Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Add the entry `history`: the recorded epochs, and the sum and weight of the train loss of the current one."""
        sums = torch.stack([model.train_loss.mean_value, model.train_loss.weight]).double()
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        checkpoint["history"] = {"rows": self.epochs.rows, "scores": self.epochs.scores, "loss": sums.tolist()}

    def on_load_checkpoint(self, trainer: pl.Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Continue the records of a checkpoint."""
        self.epochs, self._loss = Epochs.of(self.epochs.run, checkpoint), checkpoint["history"]["loss"]


class EpochLines(pl.Callback):
    """Print one plain line per epoch to stderr, with the losses and the monitored score. Epochs count from 1."""

    def __init__(self, monitor: str):
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Print the epoch's line."""
        seen = trainer.callback_metrics
        words = [f"{name} {float(seen[name]):.4f}" for name in ("train/loss", "val/loss", self.monitor) if name in seen]
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  " + "  ".join(words), file=sys.stderr, flush=True)
