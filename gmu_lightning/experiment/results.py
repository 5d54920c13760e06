"""Predict val and test with a fitted model, score the predictions, and draw a run's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmu_lightning.callbacks import SplitPredictions, loss_of
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.files import write_table
from gmu_lightning.lightning import pl
from gmu_lightning.metrics import TUNED, main_scores, scores
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.report.figures import gate_figure, genre_bars, save
from gmu_lightning.report.gates import by_genre
from gmu_lightning.run import Predictions, Run


@dataclass(frozen=True)
class FitResult:
    """The outcome of a fit, whose model has the weights of the best epoch.

    Attributes:
        trainer: Lightning's, or None after the fast loop.
        predictions: the callback that collects predictions.
        device: that the model was trained on.
        best_epoch, epochs: number of the best one, counted from 0, and how many there were.
        seconds: duration of the fit.
    """

    trainer: pl.Trainer | None
    predictions: SplitPredictions
    device: torch.device
    best_epoch: int
    epochs: int
    seconds: float


def predict(
    trainer: pl.Trainer | None, collector: SplitPredictions, data: MovieDataModule, model: pl.LightningModule, split: str
) -> Predictions:
    """Return the predictions of a whole split, in its order.

    Args:
        trainer: runs the model; None runs it on the device that it is on.
        collector: collects the predictions.
        data: gives the batches.
        model: has a `validation_step` that returns a Prediction.
        split: `train`, `val` or `test`.
    """
    collector.split = split
    if trainer is None:
        collector.collect(model, data.loader(split))
    else:
        trainer.validate(model, dataloaders=data.loader(split), verbose=False)
    assert collector.latest is not None
    return collector.latest


def final_scores(fitted: FitResult, run: Run, data: MovieDataModule, model: MovieGenreClassifier) -> dict[str, Any]:
    """Write the predictions of val and test, and return their scores.

    This is the only place where training reads test, and the best epoch is fixed by then.

    Args:
        fitted: the outcome of the fit.
        run: receives predictions/val.parquet and predictions/test.parquet.
        data, model: of the run.

    Returns:
        {`val/...` and `test/...`: score}, `best_epoch` (counted from 0), `epochs`, `contributions_exact`, and for a multilabel
        task `threshold@val`, one threshold tuned on val for all genres.
    """
    val = predict(fitted.trainer, fitted.predictions, data, model, "val")
    test = predict(fitted.trainer, fitted.predictions, data, model, "test")
    tuned: dict[str, Any] = {}
    if val.task == "multilabel":
        tuned = {rule: tune(val.labels, val.probabilities) for rule, tune in TUNED.items()}
    metrics: dict[str, Any] = {}
    for split in (val, test):
        split.write(run / f"predictions/{split.split}.parquet")
        metrics |= {f"{split.split}/{name}": value for name, value in split_scores(split, model, tuned).items()}
    return metrics | {
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
        "contributions_exact": val.contributions is not None,
        **({"threshold@val": tuned["val"]} if tuned else {}),
    }


def split_scores(split: Predictions, model: MovieGenreClassifier | None, tuned: dict[str, Any]) -> dict[str, float]:
    """Return the scores of one split: by the plain decisions under their own names, and at tuned thresholds as `name@rule`.

    Args:
        split: predictions and labels of N movies.
        model: gives the loss; None leaves it out.
        tuned: {rule: threshold, one or one per genre}; {} for a multiclass task.

    Returns:
        `loss`, the scores of `metrics.scores`, `name@rule`, and the counts `movies`, `movies_without_input` and
        `movies_with_genre`. A split without labels has only the counts.
    """
    counts = {"movies": len(split.ids)}
    if split.modalities:
        counts["movies_without_input"] = int(np.sum(~split.present.any(axis=1)))
    counts["movies_with_genre"] = int(split.labels.any(axis=1).sum())
    if not counts["movies_with_genre"]:
        return {**counts}
    result = scores(split.labels, split.probabilities, split.genres, task=split.task)
    for rule, threshold in tuned.items():
        at = scores(split.labels, split.probabilities, split.genres, threshold)
        result |= {f"{name}@{rule}": value for name, value in at.items() if name.startswith("f1_")}
    return {**({"loss": loss_of(model, split)} if model else {}), **result, **counts}


def scores_in_words(found: Mapping[str, Any], split: str) -> str:
    """Return a line for the console: the two main scores of a split, or a remark that it has no labels."""
    if "f1_micro" not in found:
        return f"{split} has no labels, so it is predicted and not scored"
    return main_scores(split, found)


def write_gates(run: Run) -> list[Path]:
    """Write the gate table and the figures of a run, and return the PNG files. Without test labels, write nothing.

    Raises:
        UserError: the predictions of test are missing or damaged.
    """
    test = run.predictions("test")
    if not test.labels.any():
        return []
    drawn = []
    title = run.folder.name
    if test.gate is not None:
        columns = by_genre(test)
        write_table(run / "gates/by_genre.parquet", columns)
        drawn.append(run / "gates/by_genre.png")
        save(gate_figure(columns, title), run / "gates/by_genre")
    drawn.append(run / "figures/genres.png")
    save(genre_bars(test, title), run / "figures/genres")
    return drawn
