"""What a fitted model says of val and test, and the scores of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmu_lightning.callbacks import SplitPredictions
from gmu_lightning.data.module import MovieData
from gmu_lightning.files import write_table
from gmu_lightning.lightning import pl
from gmu_lightning.metrics import scores, tune_per_genre, tune_threshold
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.report.figures import gate_figure, genre_bars, save
from gmu_lightning.report.gates import by_genre
from gmu_lightning.run import Predictions, Run


@dataclass(frozen=True)
class Fitted:
    """What is left of a fit, the best epoch's weights being in the model; `trainer` is None where there was none."""

    trainer: pl.Trainer | None
    predictions: SplitPredictions
    device: torch.device
    best_epoch: int
    epochs: int
    seconds: float


def predict(
    trainer: pl.Trainer | None, collector: SplitPredictions, data: MovieData, model: pl.LightningModule, split: str
) -> Predictions:
    """Predictions of a whole split, in its order; without a trainer where the model stands."""
    collector.split = split
    if trainer is None:
        collector.collect(model, data.loader(split))
    else:
        trainer.validate(model, dataloaders=data.loader(split), verbose=False)
    assert collector.latest is not None
    return collector.latest


def final_scores(fitted: Fitted, run: Run, data: MovieData, model: MovieGenreClassifier) -> dict[str, Any]:
    """Writes the predictions of val and test, returns their scores; test is read here, once, after the best epoch is fixed."""
    val = predict(fitted.trainer, fitted.predictions, data, model, "val")
    test = predict(fitted.trainer, fitted.predictions, data, model, "test")
    tuned = {"val": tune_threshold(val.labels, val.probabilities), "val_per_genre": tune_per_genre(val.labels, val.probabilities)}
    metrics: dict[str, Any] = {}
    for split in (val, test):
        split.write(run / f"predictions/{split.split}.parquet")
        metrics |= {f"{split.split}/{name}": value for name, value in split_scores(split, model, tuned).items()}
    return metrics | {
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
        "contributions_exact": val.contributions is not None,
        "threshold@val": tuned["val"],
    }


def split_scores(split: Predictions, model: MovieGenreClassifier, tuned: dict[str, Any]) -> dict[str, float]:
    """All scores of one split: at .5 under the plain names, at the thresholds tuned on val beside them.

    A split without labels has counts alone.
    """
    counts = {"movies": len(split.ids), "movies_without_input": int(np.sum(~split.present.any(axis=1)))}
    counts["movies_with_genre"] = int(split.labels.any(axis=1).sum())
    if not counts["movies_with_genre"]:
        return {**counts}
    found = scores(split.labels, split.probabilities, split.genres)
    for rule, threshold in tuned.items():
        at = scores(split.labels, split.probabilities, split.genres, threshold)
        found |= {f"{name}@{rule}": value for name, value in at.items() if name.startswith("f1_")}
    logits, labels = torch.from_numpy(split.logits).float(), torch.from_numpy(split.labels).float()
    with torch.no_grad():
        loss = float(model.loss(logits.to(model.device), labels.to(model.device)))
    return {"loss": loss, **found, **counts}


def scores_in_words(found: Mapping[str, Any], split: str) -> str:
    """Return the two main scores of a split for the console, or that it has no labels."""
    if "f1_micro" not in found:
        return f"{split} has no labels, so it is predicted and not scored"
    return f"{split} micro F1 {found['f1_micro']:.4f}, micro AP {found['ap_micro']:.4f}"


def write_gates(run: Run) -> list[Path]:
    """The gate table and every figure of a run; the figures that were drawn, as PNG. None without labels of test."""
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
