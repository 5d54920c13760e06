"""Do probabilities mean what they say? Over all decisions of a split, a movie and a genre each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmu_lightning.run import Predictions

BINS = 10


class Reliability(NamedTuple):
    """Of the decisions whose probability falls into each bin; a bin without any is left out."""

    said: np.ndarray  # (K,) mean probability
    true: np.ndarray  # (K,) share that is true
    counts: np.ndarray  # (K,) int
    error: float  # expected calibration error: mean |said - true|, weighted by counts (Naeini et al. 2015)


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability curve over bins of equal width, of labels and probabilities (N, C)."""
    place = np.minimum((probabilities.ravel() * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    some = count > 0
    said = np.bincount(place, probabilities.ravel(), bins)[some] / count[some]
    true = np.bincount(place, labels.ravel().astype(float), bins)[some] / count[some]
    return Reliability(said, true, count[some], float(np.abs(said - true) @ count[some] / count.sum()))


def temperature(val: Predictions) -> float:
    """T > 0 for which logits / T have the lowest cross-entropy on val (Guo et al. 2017, arXiv 1706.04599)."""
    from scipy.optimize import minimize_scalar

    logits, labels = val.logits, val.labels

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float((np.logaddexp(0, scaled) - labels * scaled).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-4}).x))


class Calibration(NamedTuple):
    """A run's test probabilities as they are, and with logits divided by the temperature that val chose."""

    before: Reliability
    after: Reliability
    temperature: float


def calibration(val: Predictions, test: Predictions) -> Calibration:
    """Of one run."""
    t = temperature(val)
    scaled = np.exp(-np.logaddexp(0, -test.logits / t))
    return Calibration(reliability(test.labels, test.probabilities), reliability(test.labels, scaled), t)
