"""Every score, by name, over a whole split. Pure NumPy, because val is scored after every epoch of every run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def scores(
    targets: np.ndarray, probabilities: np.ndarray, genres: Sequence[str], threshold: float | np.ndarray | Sequence[float] = 0.5
) -> dict[str, float]:
    """Scores of a split, as scikit-learn defines them.

    Args:
        targets: (N, C) bool.
        probabilities: (N, C).
        threshold: one, or one per genre (C,); a genre is predicted where its probability reaches it.

    Returns:
        `f1_micro f1_macro f1_weighted f1_samples`, `f1/<Genre>`: a ratio without a denominator is 0, and every genre counts.
        `ap_micro ap_macro ap_samples`, `ap/<Genre>`: over the genres that have a positive (`ap_macro_genres` of them), and the
        movies that have a genre.
    """
    predicted = probabilities >= np.asarray(threshold)
    return _f1(targets, predicted, genres) | _average_precision(targets, probabilities, genres)


def tune_threshold(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the highest micro F1, of all that make a difference; the one nearest to .5 of equals."""
    return float(_best_thresholds(targets.reshape(-1, 1), probabilities.reshape(-1, 1))[0])


def tune_per_genre(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Per genre the threshold with its highest F1, (C,); a genre without a positive keeps .5."""
    return _best_thresholds(targets, probabilities)


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
    """sum_k (R_k - R_(k-1)) P_k over the distinct values of each column, (N, C) -> (C,); equal values are one step.

    Every column has a positive.
    """
    truth, last = _sorted(targets, values)
    hits = truth.cumsum(axis=0)
    precision = hits / np.arange(1, len(truth) + 1)[:, None]
    # At the last of equal values stand the hits of all of them; what they add to recall is counted there alone.
    before = np.maximum.accumulate(np.where(last, hits, 0), axis=0)
    gained = np.where(last, hits - np.vstack([np.zeros_like(before[:1]), before[:-1]]), 0)
    return (gained * precision).sum(axis=0) / hits[-1]


def _best_thresholds(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Per column of (N, C): predicting all that reaches a value, which value gives the highest F1."""
    order = np.argsort(-values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    truth, last = _sorted(targets, values)
    f1 = 2 * truth.cumsum(axis=0) / (np.arange(1, len(truth) + 1)[:, None] + truth.sum(axis=0))
    f1 = np.where(last, f1, -1.0)
    best = np.abs(np.where(f1 == f1.max(axis=0), ranked, np.inf) - 0.5).argmin(axis=0)
    found = np.take_along_axis(ranked, best[None], axis=0)[0]
    return np.where(targets.any(axis=0), found, 0.5)


def _sorted(targets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets by falling value, and where the last of equal values stands; both (N, C)."""
    order = np.argsort(-values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    last = np.ones(ranked.shape, dtype=bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    return np.take_along_axis(targets, order, axis=0), last


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, and return 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) > 0)
