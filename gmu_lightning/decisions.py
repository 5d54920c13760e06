"""Turn logits into probabilities and probabilities into decisions, for both tasks. Every score and report uses these functions.

`multilabel`: a movie has any number of genres, and each genre is decided by itself. `multiclass`: a movie has exactly one genre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Task = Literal["multilabel", "multiclass"]
Threshold = float | np.ndarray | Sequence[float] | None


def probabilities_of(logits: np.ndarray, task: Task) -> np.ndarray:
    """Return the probabilities (N, C) of logits (N, C): each logit's sigmoid, or for `multiclass` the softmax over the genres."""
    with np.errstate(invalid="ignore"):  # for NaN logits, which training reports in a sentence
        if task == "multilabel":
            return np.exp(-np.logaddexp(0, -logits))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


def decided(probabilities: np.ndarray, task: Task, threshold: Threshold = 0.5) -> np.ndarray:
    """Return the predicted genres, (N, C) bool.

    Args:
        probabilities: (N, C).
        task: `multiclass` predicts the most probable genre of each movie, and of equally probable ones the first.
        threshold: one number, or one per genre (C,). `multilabel` predicts a genre if its probability is at least the threshold.
            `multiclass` ignores it.
    """
    if task == "multilabel":
        return probabilities >= np.asarray(threshold)
    return np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]


def cross_entropy(logits: np.ndarray, labels: np.ndarray, task: Task) -> float:
    """Return the mean cross-entropy of logits and labels, both (N, C): over all pairs, or for `multiclass` over the movies."""
    if task == "multilabel":
        return float((np.logaddexp(0, logits) - labels * logits).mean())
    return float((np.logaddexp.reduce(logits, axis=1) - (labels * logits).sum(axis=1)).mean())
