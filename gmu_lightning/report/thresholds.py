"""The part of a score's variance that comes from thresholds tuned on val.

A threshold depends on which movies val holds. All seeds of a setting share these movies, so their spread does not show it. A
bootstrap over val movies does: draw val with replacement, tune again, score test. Every run sees the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from gmu_lightning.metrics import ratio
from gmu_lightning.report.inference import Retuned

DRAWS = 100  # of val; the estimated variance is then right to a seventh


class Decided(Protocol):
    """A run's probabilities on a split, with the true labels."""

    @property
    def labels(self) -> np.ndarray:
        """(N, C) bool."""

    @property
    def probabilities(self) -> np.ndarray:
        """(N, C)."""


def retuned(kind: str, rule: str, val: Sequence[Decided], test: Sequence[Decided]) -> Retuned:
    """Tune the thresholds of each run of a setting again on every draw of val, and score its test movies with them.

    Args:
        kind: `f1_micro`, `f1_macro`, `f1_weighted` or `f1_samples`.
        rule: `val` (one threshold) or `val_per_genre`.
    """
    movies = len(val[0].labels)
    weights = _draws(movies)
    scores = [
        scores_at(kind, t.labels, t.probabilities, tuned_again(rule, v.labels, v.probabilities, weights))
        for v, t in zip(val, test, strict=True)
    ]
    return Retuned(np.stack(scores), movies)


@lru_cache(maxsize=4)
def _draws(movies: int) -> np.ndarray:
    """Return how often each draw holds each movie, (N, B) float32; splits of one size have the same draws."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(movies, size=movies), minlength=movies) for _ in range(DRAWS)], 1).astype("f4")


def tuned_again(rule: str, targets: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the thresholds that `metrics` tunes on each draw of N movies: (B, C), or (B, 1) for one threshold.

    Args:
        targets: (N, C) bool.
        probabilities: (N, C).
        weights: (N, B), how often each draw holds each movie.
    """
    if rule == "val":
        weights = np.repeat(weights, targets.shape[1], axis=0)
        targets, probabilities = targets.reshape(-1, 1), probabilities.reshape(-1, 1)
    return np.stack([_best(*column, weights) for column in zip(targets.T, probabilities.T, strict=True)], axis=1)


def _best(targets: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for each draw the drawn value with the highest F1, of equals the nearest to .5; .5 without a positive: (B,)."""
    order = np.argsort(-values, kind="stable")
    ranked, drawn = values[order], weights[order]
    hits = drawn * targets[order, None]
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    if len(first) < len(ranked):  # equal values are one step
        ranked, drawn, hits = ranked[first], np.add.reduceat(drawn, first, axis=0), np.add.reduceat(hits, first, axis=0)
    np.cumsum(hits, axis=0, out=hits)
    named = np.cumsum(drawn, axis=0)
    named += hits[-1]
    some = hits[-1] > 0
    hits[drawn == 0] = -1
    f1 = np.divide(hits, named, out=hits, where=named > 0)
    best = np.where(f1 == f1.max(axis=0), np.abs(ranked - 0.5)[:, None], np.inf).argmin(axis=0)
    return np.where(some, ranked[best], 0.5)


def scores_at(kind: str, targets: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the F1 of a split at each of B thresholds, (B,).

    Args:
        targets: (N, C) bool.
        probabilities: (N, C).
        thresholds: (B, C), or (B, 1) for one threshold of all genres.
    """
    at = np.broadcast_to(thresholds, (len(thresholds), targets.shape[1]))
    if kind == "f1_samples":
        return np.array([_of_movies(targets, probabilities >= one) for one in at])
    hits, named = (np.stack(counts, axis=1) for counts in zip(*_counts(targets, probabilities, at), strict=True))
    if kind == "f1_micro":
        return ratio(2 * hits.sum(axis=1), named.sum(axis=1))
    per_genre, support = ratio(2 * hits, named), targets.sum(axis=0)
    if kind == "f1_macro":
        return np.asarray(per_genre.mean(axis=1))
    return ratio(per_genre @ support, np.full(len(per_genre), support.sum()))


def _counts(targets: np.ndarray, probabilities: np.ndarray, at: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each genre its hits, and its labels and predictions together, at each threshold: (B,) and (B,)."""
    for labels, values, thresholds in zip(targets.T, probabilities.T, at.T, strict=True):
        order = np.argsort(values)
        above = np.r_[0, labels[order].cumsum()]
        below = np.searchsorted(values[order], thresholds)  # movies whose probability does not reach the threshold
        yield above[-1] - above[below], above[-1] + len(values) - below


def _of_movies(targets: np.ndarray, predicted: np.ndarray) -> float:
    return float(ratio(2 * (targets & predicted).sum(axis=1), targets.sum(axis=1) + predicted.sum(axis=1)).mean())
