"""All scores of a split, by name. This is plain NumPy for speed, because every epoch of every run scores val."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gmu_lightning.decisions import Task, Threshold, decided


def scores(
    targets: np.ndarray,
    probabilities: np.ndarray,
    genres: Sequence[str],
    threshold: Threshold = 0.5,
    task: Task = "multilabel",
) -> dict[str, float]:
    """Return the scores of a split by name, as scikit-learn defines them.

    Args:
        targets: (N, C) bool.
        probabilities: (N, C) floats.
        genres: C names.
        threshold: as in `decided`, which makes the predictions.
        task: of the labels.

    Returns:
        `accuracy` for `multiclass`: the share of movies whose genre is predicted. It equals `f1_micro` there.
        `f1_micro f1_macro f1_weighted f1_samples` and `f1/<Genre>` over all genres; a ratio with denominator 0 is 0.
        `ap_macro` and `ap/<Genre>` over the genres with a positive, `ap_samples` over the movies with a genre, and `ap_micro`
        over all pairs of a movie and a genre. They are 0 if no movie has a genre, and there is no `ap/<Genre>` then.
        `ap_macro_genres`: the number of genres with a positive.
    """
    predicted = decided(probabilities, task, threshold)
    accuracy = {"accuracy": float((targets & predicted).any(axis=1).mean())} if task == "multiclass" else {}
    return accuracy | _f1(targets, predicted, genres) | _average_precision(targets, probabilities, genres)


def tune_threshold(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the probability that has the highest micro F1 as a threshold of all genres; of equals, the one nearest to .5.

    Args:
        targets: (N, C) bool. Without a positive the threshold is .5.
        probabilities: (N, C) floats.
    """
    return float(_best_thresholds(targets.reshape(-1, 1), probabilities.reshape(-1, 1))[0])


def tune_per_genre(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return `tune_threshold` of each genre by itself, (C,); a genre without a positive keeps .5."""
    return _best_thresholds(targets, probabilities)


TUNED: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {"val": tune_threshold, "val_per_genre": tune_per_genre}


def main_scores(split: str, found: Mapping[str, Any], between: str = ", ") -> str:
    """Return the two main scores of a split as text for the console: accuracy or micro F1, and micro AP.

    Args:
        split: its name.
        found: {score: value}.
        between: separates the two.
    """
    first = f"accuracy {found['accuracy']:.4f}" if "accuracy" in found else f"micro F1 {found['f1_micro']:.4f}"
    return f"{split} {first}{between}micro AP {found['ap_micro']:.4f}"


def _f1(targets: np.ndarray, predicted: np.ndarray, genres: Sequence[str]) -> dict[str, float]:
    hits = targets & predicted
    per_genre = ratio(2 * hits.sum(0), targets.sum(0) + predicted.sum(0))
    per_movie = ratio(2 * hits.sum(1), targets.sum(1) + predicted.sum(1))
    support = targets.sum(0)
    return {
        "f1_micro": float(ratio(2 * hits.sum(), targets.sum() + predicted.sum())),
        "f1_macro": float(per_genre.mean()),
        "f1_weighted": float(ratio((per_genre * support).sum(), support.sum())),
        "f1_samples": float(per_movie.mean()),
        **{f"f1/{genre}": float(value) for genre, value in zip(genres, per_genre, strict=True)},
    }


def _average_precision(targets: np.ndarray, probabilities: np.ndarray, genres: Sequence[str]) -> dict[str, float]:
    some = np.flatnonzero(targets.any(axis=0))
    per_genre = average_precision(targets[:, some], probabilities[:, some])
    with_genre = targets.any(axis=1)
    samples = average_precision(targets[with_genre].T, probabilities[with_genre].T)
    micro = average_precision(targets.reshape(-1, 1), probabilities.reshape(-1, 1)) if len(some) else np.zeros(1)
    return {
        "ap_micro": float(micro[0]),
        "ap_macro": float(per_genre.mean()) if len(some) else 0.0,
        "ap_samples": float(samples.mean()) if with_genre.any() else 0.0,
        "ap_macro_genres": len(some),
        **{f"ap/{genres[int(c)]}": float(value) for c, value in zip(some, per_genre, strict=True)},
    }


def average_precision(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sum_k (R_k - R_(k-1)) P_k over the distinct values of each column, (C,) float64; equal values are one step.

    Args:
        targets: (N, C) bool; every column must have a positive.
        values: (N, C), which rank the rows of a column.
    """
    truth, last = _sorted(targets, values)
    hits = truth.cumsum(axis=0)
    precision = hits / np.arange(1, len(truth) + 1)[:, None]
    # Rows with equal values count together: the last of them adds all their hits to the recall.
    before = np.maximum.accumulate(np.where(last, hits, 0), axis=0)
    gained = np.where(last, hits - np.vstack([np.zeros_like(before[:1]), before[:-1]]), 0)
    return (gained * precision).sum(axis=0) / hits[-1]


def _best_thresholds(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return for each column of (N, C) the value with the highest F1 as a threshold, (C,); of equals, the nearest to .5."""
    order = np.argsort(-values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    truth, last = _sorted(targets, values)
    f1 = 2 * truth.cumsum(axis=0) / (np.arange(1, len(truth) + 1)[:, None] + truth.sum(axis=0))
    f1 = np.where(last, f1, -1.0)
    best = np.abs(np.where(f1 == f1.max(axis=0), ranked, np.inf) - 0.5).argmin(axis=0)
    found = np.take_along_axis(ranked, best[None], axis=0)[0]
    return np.where(targets.any(axis=0), found, 0.5)


def _sorted(targets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets sorted by falling value, and a mask of the last row of each group of equal values, both (N, C)."""
    order = np.argsort(-values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    last = np.ones(ranked.shape, dtype=bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    return np.take_along_axis(targets, order, axis=0), last


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, and return 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) > 0)
