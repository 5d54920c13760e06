"""The influence of each movie of a split on a score: the score's derivative in the movies' weights.

A score T is a function of weights w on N movies, all 1 in the original split. Its influence function is psi_i = N dT/dw_i (Hampel
1974). It sums to 0, and T(w) = T + mean((w - 1) psi) to first order. The variance of T over draws of movies is
sum(psi^2) / N^2, the infinitesimal jackknife, which is what a bootstrap over movies tends to (Efron 1982, chapter 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gmu_lightning.decisions import Task, Threshold, decided
from gmu_lightning.metrics import ratio
from gmu_lightning.report.statistics import Retuned
from gmu_lightning.run import Predictions

DRAWS = 100  # bootstrap draws of val; the estimated variance is then right to a seventh


class Influence(NamedTuple):
    """A score and what each of N movies adds to it."""

    score: float
    psi: np.ndarray  # (N,) float64, sums to 0


def influence(
    metric: str, targets: np.ndarray, probabilities: np.ndarray, threshold: Threshold = 0.5, task: Task = "multilabel"
) -> Influence:
    """Return the score as `metrics.scores` defines it, and its influence function.

    Args:
        metric: one of `KINDS`.
        targets: (N, C) bool.
        probabilities: (N, C).
        threshold, task: as in `decided`, which makes the predictions; an average precision needs neither.
    """
    if not metric.startswith("ap"):
        return KINDS[metric](targets, decided(probabilities, task, threshold))
    return KINDS[metric](targets, probabilities) if targets.any() else Influence(0.0, np.zeros(len(targets)))


def _f1_of_counts(hits: np.ndarray, named: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 = 2 hits / named of columns of counts per movie (N, K), `named` = labels + predictions: (K,) and psi (N, K)."""
    total = named.sum(axis=0)
    f1 = ratio(2 * hits.sum(axis=0), total)
    return f1, len(hits) * ratio(2 * hits - f1 * named, np.broadcast_to(total, named.shape))


def _f1_micro(targets: np.ndarray, predicted: np.ndarray) -> Influence:
    hits, named = (targets & predicted).sum(axis=1), targets.sum(axis=1) + predicted.sum(axis=1)
    f1, psi = _f1_of_counts(hits[:, None], named[:, None])
    return Influence(float(f1[0]), psi[:, 0])


def _f1_macro(targets: np.ndarray, predicted: np.ndarray) -> Influence:
    f1, psi = _f1_of_counts(targets & predicted, targets.astype(int) + predicted)
    return Influence(float(f1.mean()), psi.mean(axis=1))


def _f1_weighted(targets: np.ndarray, predicted: np.ndarray) -> Influence:
    f1, psi = _f1_of_counts(targets & predicted, targets.astype(int) + predicted)
    support = targets.sum(axis=0)
    score = float(ratio((f1 * support).sum(), support.sum()))
    by_support = len(targets) * targets @ (f1 - score)  # a movie's labels are weights, too
    return Influence(score, ratio(psi @ support + by_support, np.full(len(targets), support.sum())))


def _f1_samples(targets: np.ndarray, predicted: np.ndarray) -> Influence:
    each = ratio(2 * (targets & predicted).sum(axis=1), targets.sum(axis=1) + predicted.sum(axis=1))
    return Influence(float(each.mean()), each - each.mean())


def _accuracy(targets: np.ndarray, predicted: np.ndarray) -> Influence:
    right = (targets & predicted).any(axis=1)
    return Influence(float(right.mean()), right - right.mean())


def _ap_of_columns(targets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of each column of (n, K), which has a positive, and its derivative in each item's weight, (n, K)."""
    order = np.argsort(-values, axis=0, kind="stable")
    ranked, truth = np.take_along_axis(values, order, axis=0), np.take_along_axis(targets, order, axis=0)
    n, columns = values.shape
    last = np.ones((n, columns), dtype=bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    hits = truth.cumsum(axis=0, dtype=np.float64)
    # Equal values are one step, so each item reads what stands at the last of its equals.
    at = np.where(last, np.arange(n)[:, None], n)
    at = np.minimum.accumulate(at[::-1], axis=0)[::-1]
    precision = np.take_along_axis(hits, at, axis=0) / (at + 1)
    found = hits[-1]
    score = np.where(truth, precision, 0).sum(axis=0) / found

    def from_its_equals_on(values_of_steps: np.ndarray) -> np.ndarray:
        """Sum over the positives of this and every later step."""
        below = np.cumsum(np.where(truth, values_of_steps, 0)[::-1], axis=0)[::-1]
        first = np.ones((n, columns), dtype=bool)
        first[1:] = last[:-1]
        begin = np.maximum.accumulate(np.where(first, np.arange(n)[:, None], 0), axis=0)
        return np.take_along_axis(below, begin, axis=0)

    share = 1 / (at + 1)
    slope = -from_its_equals_on(precision * share)  # a lower precision wherever the item stands above
    slope += np.where(truth, precision + from_its_equals_on(share) - score, 0)
    out = np.empty_like(slope)
    np.put_along_axis(out, order, slope / found, axis=0)
    return score, out


def ap_per_genre(targets: np.ndarray, probabilities: np.ndarray) -> dict[int, Influence]:
    """Return {index of a genre: its average precision}, for every genre that some of the N movies have.

    Args:
        targets: (N, C) bool.
        probabilities: (N, C).
    """
    some = np.flatnonzero(targets.any(axis=0))
    score, slope = _ap_of_columns(targets[:, some], probabilities[:, some])
    return {int(c): Influence(float(score[n]), len(targets) * slope[:, n]) for n, c in enumerate(some)}


def _ap_micro(targets: np.ndarray, probabilities: np.ndarray) -> Influence:
    score, slope = _ap_of_columns(targets.reshape(-1, 1), probabilities.reshape(-1, 1))
    return Influence(float(score[0]), len(targets) * slope.reshape(targets.shape).sum(axis=1))


def _ap_macro(targets: np.ndarray, probabilities: np.ndarray) -> Influence:
    some = targets.any(axis=0)
    score, slope = _ap_of_columns(targets[:, some], probabilities[:, some])
    return Influence(float(score.mean()), len(targets) * slope.mean(axis=1))


def _ap_samples(targets: np.ndarray, probabilities: np.ndarray) -> Influence:
    some = targets.any(axis=1)
    psi = np.zeros(len(targets))
    each, _ = _ap_of_columns(targets[some].T, probabilities[some].T)
    psi[some] = (each - each.mean()) * len(targets) / some.sum()
    return Influence(float(each.mean()), psi)


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], Influence]] = {
    "f1_micro": _f1_micro,
    "f1_macro": _f1_macro,
    "f1_weighted": _f1_weighted,
    "f1_samples": _f1_samples,
    "ap_micro": _ap_micro,
    "ap_macro": _ap_macro,
    "ap_samples": _ap_samples,
    "accuracy": _accuracy,
}


def retuned(kind: str, rule: str, val: Sequence[Predictions], test: Sequence[Predictions]) -> Retuned:
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
    """Return the best threshold of each draw, (B,).

    A threshold is a drawn value with the highest F1. Of equally good ones, the nearest to 0.5 is best. A draw without a positive
    has the threshold 0.5.

    Args:
        targets: (N,) bool.
        values: (N,), the probabilities.
        weights: (N, B), how often each draw holds each movie.
    """
    order = np.argsort(-values, kind="stable")
    ranked, drawn = values[order], weights[order]
    hits = drawn * targets[order, None].astype(drawn.dtype)
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    if len(first) < len(ranked):  # equal values are one step
        ranked, drawn, hits = ranked[first], np.add.reduceat(drawn, first, axis=0), np.add.reduceat(hits, first, axis=0)
    np.cumsum(hits, axis=0, out=hits)
    named = np.cumsum(drawn, axis=0)
    named += hits[-1]
    some = hits[-1] > 0
    f1 = np.divide(hits, np.maximum(named, 1, out=named), out=hits)
    f1 *= np.minimum(drawn, 1, out=drawn)  # a value that is not drawn is no threshold
    near = np.argsort(np.abs(ranked - 0.5), kind="stable")
    best = near[f1[near].argmax(axis=0)]  # the first of equal ones
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
        return np.array([_f1_samples(targets, decided(probabilities, "multilabel", one)).score for one in at])
    counts = []
    for labels, values, own in zip(targets.T, probabilities.T, at.T, strict=True):
        order = np.argsort(values)
        above = np.r_[0, labels[order].cumsum()]
        below = np.searchsorted(values[order], own)  # movies whose probability does not reach the threshold
        counts.append((above[-1] - above[below], above[-1] + len(values) - below))
    hits, named = (np.stack(of, axis=1) for of in zip(*counts, strict=True))
    if kind == "f1_micro":
        return ratio(2 * hits.sum(axis=1), named.sum(axis=1))
    per_genre, support = ratio(2 * hits, named), targets.sum(axis=0)
    if kind == "f1_macro":
        return np.asarray(per_genre.mean(axis=1))
    return ratio(per_genre @ support, np.full(len(per_genre), support.sum()))
