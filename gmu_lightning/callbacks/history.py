"""history.csv: a row per epoch, written as it ends; and whether the loss ever moved."""

from __future__ import annotations

import difflib
import math
import time
from typing import Any

import pytorch_lightning as pl
import torch

from gmu_lightning.callbacks.predictions import SplitPredictions
from gmu_lightning.files import write_rows
from gmu_lightning.metrics import scores
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run

FLAT = 0.97  # a run whose last epoch's train loss exceeds this share of the first's has not trained
FEWEST_EPOCHS = 3


class History(pl.Callback):
    """Scores the validation split after each epoch, hands the scores to whoever monitors them, and keeps them.

    Must stand after `predictions` and before checkpoints and early stopping in the trainer's list.
    """

    def __init__(self, run: Run, predictions: SplitPredictions):
        self.run, self.predictions = run, predictions
        self.rows: list[dict[str, Any]] = []
        self.fitting = False
        self._started = 0.0
        self._rate = 0.0
        self._scores: dict[str, float] = {}

    def on_fit_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Only what happens within the fit is history."""
        self.fitting = True

    def on_fit_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Later passes over a split are not epochs."""
        self.fitting = False

    def on_train_epoch_start(self, trainer: pl.Trainer, model: Any) -> None:
        """The epoch's clock, and its mean loss from zero."""
        self._started = time.perf_counter()
        model.train_loss.reset()

    def on_before_optimizer_step(self, trainer: pl.Trainer, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """The rate of this update; at the epoch's end the optimizer already holds the next one's."""
        self._rate = optimizer.param_groups[-1]["lr"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """The whole split's scores."""
        if not self.fitting or self.predictions.latest is None:
            return
        split = self.predictions.latest
        logits, labels = (torch.from_numpy(array).float().to(model.device) for array in (split.logits, split.labels))
        loss = model.loss(logits, labels)
        found = scores(split.labels, split.probabilities, split.genres)
        self._scores = {"val/loss": float(loss)} | {f"val/{name}": value for name, value in found.items()}
        if model.monitor not in self._scores:
            close = difflib.get_close_matches(model.monitor, self._scores, n=3)
            raise UserError(
                f"monitor={model.monitor} is no score of the val split: choose one like {', '.join(close or ['val/ap_micro'])}"
            )
        on_bar = {"val/loss", model.monitor}
        model.log_dict({name: value for name, value in self._scores.items() if name in on_bar}, prog_bar=True)
        model.log_dict({name: value for name, value in self._scores.items() if name not in on_bar})

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """The epoch's row."""
        loss = float(model.train_loss.compute())
        if not math.isfinite(loss):
            raise UserError(
                f"the training loss became {loss} in epoch {trainer.current_epoch}: "
                "lower optimizer.lr, clip the gradient with trainer.gradient_clip_val=1.0, or use trainer.precision=32-true"
            )
        shown = ("loss", "f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", "ap_samples")
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "seconds": round(time.perf_counter() - self._started, 4),
                "lr": self._rate,
                "train/loss": loss,
                **{f"val/{name}": self._scores[f"val/{name}"] for name in shown},
            }
        )
        model.log("train/loss", loss, prog_bar=True)
        if trainer.is_global_zero:
            write_rows(self.run / "history.csv", self.rows)

    @property
    def flat_loss(self) -> str | None:
        """The warning of a run whose loss stayed flat; None where it fell, or where there were too few epochs to tell."""
        if len(self.rows) < FEWEST_EPOCHS:
            return None
        first, last = self.rows[0]["train/loss"], self.rows[-1]["train/loss"]
        if last <= FLAT * first:
            return None
        return (
            f"flat_loss: the train loss went from {first:.4f} to {last:.4f} in {len(self.rows)} epochs: this run has not learned"
        )
