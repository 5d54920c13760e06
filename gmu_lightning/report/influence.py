"""What each movie of a split adds to a score: the score's derivative in the movies' weights.

A score T is a function of weights w on N movies, all 1 in the split as it is. psi_i = N dT/dw_i is its influence function
(Hampel 1974); it sums to 0, and T(w) = T + mean((w - 1) psi) to first order. The variance of T over draws of movies is
sum(psi^2) / N^2, the infinitesimal jackknife, which is what a bootstrap over movies tends to (Efron 1982, chapter 6).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmu_lightning.metrics import ratio
from gmu_lightning.movie import UserError

KINDS = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", "ap_samples")


class Influence(NamedTuple):
    """A score and what each of N movies adds to it."""

    score: float
    psi: np.ndarray  # (N,) float64, sums to 0


def influence(metric: str, targets: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5) -> Influence:
    """The score as `metrics.scores` defines it, and its influence function.

    Args:
        metric: `f1_micro`, `f1_macro`, `f1_weighted`, `f1_samples`, `ap_micro`, `ap_macro` or `ap_samples`.
        targets: (N, C) bool.
        probabilities: (N, C).
        threshold: one, or one per genre (C,); an average precision has none.

    Raises:
        UserError: the metric is none of these.
    """
    if metric not in KINDS:
        raise UserError(f"metric={metric} is no score of a whole split: choose one of {', '.join(KINDS)}")
    kind, over = metric.split("_")
    if kind == "f1":
        return _F1[over](targets, probabilities >= np.asarray(threshold))
    return _AP[over](targets, probabilities)


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


def _ap_micro(targets: np.ndarray, probabilities: np.ndarray) -> Influence:
    some = targets.any(axis=0)
    if not some.any():
        return Influence(0.0, np.zeros(len(targets)))
    score, slope = _ap_of_columns(targets.reshape(-1, 1), probabilities.reshape(-1, 1))
    return Influence(float(score[0]), len(targets) * slope.reshape(targets.shape).sum(axis=1))


def _ap_macro(targets: np.ndarray, probabilities: np.ndarray) -> Influence:
    some = targets.any(axis=0)
    if not some.any():
        return Influence(0.0, np.zeros(len(targets)))
    score, slope = _ap_of_columns(targets[:, some], probabilities[:, some])
    return Influence(float(score.mean()), len(targets) * slope.mean(axis=1))


def _ap_samples(targets: np.ndarray, probabilities: np.ndarray) -> Influence:
    some = targets.any(axis=1)
    psi = np.zeros(len(targets))
    if not some.any():
        return Influence(0.0, psi)
    each, _ = _ap_of_columns(targets[some].T, probabilities[some].T)
    psi[some] = (each - each.mean()) * len(targets) / some.sum()
    return Influence(float(each.mean()), psi)


_F1 = {"micro": _f1_micro, "macro": _f1_macro, "weighted": _f1_weighted, "samples": _f1_samples}
_AP = {"micro": _ap_micro, "macro": _ap_macro, "samples": _ap_samples}
