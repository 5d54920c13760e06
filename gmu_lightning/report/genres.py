"""Genre by genre: how many movies have it, how well it is told, and which genres are taken for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gmu_lightning.metrics import scores, tune_per_genre
from gmu_lightning.run import Predictions


class GenreScores(NamedTuple):
    """Means over a setting's seeds; an AP without a positive is nan."""

    genres: tuple[str, ...]
    support: np.ndarray  # (C,) int, test movies that have it
    f1: np.ndarray  # (C,) at .5
    f1_tuned: np.ndarray  # (C,) at the genre's own threshold
    threshold: np.ndarray  # (C,) that threshold, tuned on val
    ap: np.ndarray  # (C,)


def genre_scores(test: Sequence[Predictions], val: Sequence[Predictions]) -> GenreScores:
    """Of the runs of one setting."""
    first = test[0]
    thresholds = [tune_per_genre(p.labels, p.probabilities) for p in val]
    found = [scores(p.labels, p.probabilities, p.genres) for p in test]
    tuned = [scores(p.labels, p.probabilities, p.genres, at) for p, at in zip(test, thresholds, strict=True)]

    def each(of: Sequence[Mapping[str, float]], score: str) -> np.ndarray:
        return np.mean([[one.get(f"{score}/{g}", np.nan) for g in first.genres] for one in of], axis=0)

    support, threshold = first.labels.sum(axis=0), np.mean(thresholds, axis=0)
    return GenreScores(first.genres, support, each(found, "f1"), each(tuned, "f1"), threshold, each(found, "ap"))


class CoOccurrence(NamedTuple):
    """Row i: of the test movies that have genre i, the share that has genre j, and the share for which it is predicted.

    On the diagonal of `predicted` stands recall; elsewhere a share far above `true` is a genre that i is taken for.
    """

    genres: tuple[str, ...]
    true: np.ndarray  # (C, C)
    predicted: np.ndarray  # (C, C), a mean over seeds


def co_occurrence(test: Sequence[Predictions]) -> CoOccurrence:
    """Of the runs of one setting, predictions at .5; a genre without a movie has a row of nan."""
    first = test[0]
    labels = first.labels.astype(float)
    counts = labels.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore"):
        true = labels.T @ labels / counts
        predicted = np.mean([labels.T @ (p.probabilities >= 0.5) for p in test], axis=0) / counts
    return CoOccurrence(first.genres, true, predicted)
