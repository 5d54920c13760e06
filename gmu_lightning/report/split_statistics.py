"""Intervals and tests for scores over several splits of one pool of movies.

A split draws train, val and test anew, and each setting has one or more seeds on every split. The splits share movies, so their
scores are not independent, and the plain variance between K splits underestimates the variance of their mean. Nadeau & Bengio
(2003, "Inference for the Generalization Error", Machine Learning 52) therefore use

    (1 / K + test / train) s^2.

s^2 is the variance between splits, and test / train the ratio of their movies. For two settings, s^2 is the variance of their
difference by split, because both are trained and tested on the same movies. It has only K - 1 degrees of freedom. Three parts
are known better:

- `movies`: the infinitesimal jackknife over the pool. A movie that several splits test counts once, with the sum of its
  influences, so that the overlap of the test movies is exact.
- `seeds`: the variance between seeds, pooled over the splits.
- `thresholds` tuned on val, as in statistics.py. Two splits covary by the share of val movies that they have in common.

They replace s^2 / K, and the correction for the overlap stays. The part of the splits is

    max(test / train s^2, (1 / K + test / train) s^2 - movies - seeds - thresholds),

so that the sum is never below the formula of Nadeau & Bengio. With one seed on each split, `seeds` is unknown, and the part of
the splits is the whole formula. Satterthwaite's formula gives the degrees of freedom of the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from gmu_lightning.report.statistics import (
    ALPHA,
    FEWEST_MOVIES,
    POWER,
    WORTH_TRAINING,
    Difference,
    Interval,
    SplitScores,
    Tested,
    VarianceComponent,
    half_width,
    hedges,
    power_of,
)

FEWEST_SPLITS = 3  # with two, the variance between splits has one degree of freedom
FEWEST_DEGREES = 2  # of the variance between seeds


class OneSplit(NamedTuple):
    """A setting's runs on one split.

    Attributes:
        scores: of these runs.
        movies: ids of the movies behind the scores.
        val: ids of the val movies.
        ratio: number of `movies` for each train movie; None if the number of train movies is unknown.
    """

    scores: SplitScores
    movies: tuple[str, ...]
    val: tuple[str, ...]
    ratio: float | None


@dataclass(frozen=True)
class ScoresOverSplits:
    """The runs of one setting on K splits, {name of the split: its runs}."""

    splits: Mapping[str, OneSplit]

    @cached_property
    def scores(self) -> np.ndarray:
        """Scores of all runs, one split after the other."""
        return np.concatenate([one.scores.scores for one in self.splits.values()])

    @cached_property
    def means(self) -> np.ndarray:
        """Mean over the seeds of each split, (K,)."""
        return np.array([one.scores.mean for one in self.splits.values()])

    @property
    def seeds(self) -> int:
        """Number of runs on all splits."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean over splits, each with the same weight."""
        return float(self.means.mean())

    @property
    def tuned_on_few(self) -> bool:
        """Whether a split's thresholds were tuned on fewer than 20 movies."""
        return any(one.scores.tuned_on_few for one in self.splits.values())

    @property
    def retune(self) -> object | None:
        """Not None if thresholds were tuned."""
        return next((one.scores.retune for one in self.splits.values()), None)

    def on(self, names: Sequence[str]) -> ScoresOverSplits:
        """Return the runs on these splits."""
        return self if list(names) == list(self.splits) else ScoresOverSplits({name: self.splits[name] for name in names})

    @cached_property
    def of_movies(self) -> np.ndarray:
        """Mean influence over seeds of each movie of the pool in each split, divided by the split's size, (K, N)."""
        places = _places(tuple(one.movies for one in self.splits.values()))
        found = np.zeros((len(self.splits), 1 + max(int(of.max(initial=0)) for of in places)))
        for row, place, one in zip(found, places, self.splits.values(), strict=True):
            row[place] = one.scores.of_movies / len(place)
        return found

    @cached_property
    def between_seeds(self) -> VarianceComponent | None:
        """Variance of the mean over seeds, pooled over the splits; None if too few splits have several seeds."""
        each = [one.scores.scores for one in self.splits.values()]
        degrees = sum(len(scores) - 1 for scores in each)
        if degrees < FEWEST_DEGREES:
            return None
        pooled = self.variance_of_seeds / degrees
        return VarianceComponent(pooled * sum(1 / len(scores) for scores in each) / len(each) ** 2, degrees)

    @property
    def variance_of_seeds(self) -> float:
        """Sum of squares of the scores around the mean of their split."""
        return float(sum(((of - of.mean()) ** 2).sum() for of in (one.scores.scores for one in self.splits.values())))

    @property
    def parts(self) -> list[VarianceComponent] | None:
        """Parts of the variance of the mean; None for too few splits or movies."""
        movies = [max(0.0, one.scores.between_movies) for one in self.splits.values()]
        tuned = [one.scores.of_thresholds() for one in self.splits.values()]
        return _parts([self], self.means, self.of_movies, movies, tuned)

    @property
    def interval(self) -> Interval:
        """Interval of the mean over splits, movies and seeds, within [0, 1]."""
        if (parts := self.parts) is None:
            return Interval(self.mean, None, None)
        half = half_width(parts)
        return Interval(self.mean, max(0.0, self.mean - half), min(1.0, self.mean + half))


@dataclass(frozen=True)
class DifferenceOverSplits(Tested):
    """Setting a minus setting b, on the same K splits in the same order."""

    a: ScoresOverSplits
    b: ScoresOverSplits

    @cached_property
    def by_split(self) -> dict[str, Difference]:
        """The difference on each split."""
        return {name: Difference(one.scores, self.b.splits[name].scores) for name, one in self.a.splits.items()}

    @property
    def mean(self) -> float:
        """Mean over splits of the difference."""
        return self.a.mean - self.b.mean

    @cached_property
    def parts(self) -> list[VarianceComponent] | None:
        """Parts of the variance: movies, thresholds, splits and seeds; None for too few splits or movies."""
        movies = [one.between_movies for one in self.by_split.values()]
        tuned = [one.a.of_thresholds(one.b) for one in self.by_split.values()]
        return _parts([self.a, self.b], self.a.means - self.b.means, self.a.of_movies - self.b.of_movies, movies, tuned)

    @property
    def shared(self) -> list[VarianceComponent]:
        """Parts that more seeds leave unchanged."""
        return (self.parts or [])[:3]

    @property
    def effect(self) -> float | None:
        """Hedges' g, the difference in standard deviations between the seeds of a split; None without a spread."""
        seeds = [self.a.seeds - len(self.a.splits), self.b.seeds - len(self.b.splits)]
        if self.parts is None or min(seeds) < 1:
            return None
        return hedges(self.mean, self.a.variance_of_seeds + self.b.variance_of_seeds, sum(seeds))

    @property
    def superiority(self) -> float:
        """Probability that a run of `a` scores above a run of `b` on the same split; ties count half."""
        return float(np.mean([one.superiority for one in self.by_split.values()]))

    def seeds_needed(self, alpha: float = ALPHA) -> int | None:
        """Return the seeds of each setting on each split that detect this difference with 80 % power; None above `MOST_SEEDS`.

        None too if the variance between seeds is unknown.
        """
        if self.parts is None or self.mean == 0 or len(self.parts) < 5:
            return None
        return next((seeds for seeds in WORTH_TRAINING if self.power(seeds, alpha) >= POWER), None)

    def power(self, seeds: int, alpha: float = ALPHA) -> float:
        """Return the power of this number of seeds on each split, as planned by `seeds_needed`."""
        from scipy.stats import chi2

        count, parts = len(self.a.splits), self.shared
        for one in (self.a, self.b):
            degrees = one.seeds - count
            spread = one.variance_of_seeds / chi2.ppf(0.2, degrees) if degrees else 0.0
            parts.append(VarianceComponent(spread / (seeds * count), (seeds - 1) * count))
        return power_of(self.mean, parts, alpha)


def difference_of(a: SplitScores | ScoresOverSplits, b: SplitScores | ScoresOverSplits) -> Difference | DifferenceOverSplits:
    """Return setting a minus setting b, over the splits that both have if they have several."""
    if isinstance(a, ScoresOverSplits) and isinstance(b, ScoresOverSplits):
        names = [name for name in a.splits if name in b.splits]
        return DifferenceOverSplits(a.on(names), b.on(names))
    assert isinstance(a, SplitScores) and isinstance(b, SplitScores)
    return Difference(a, b)


def _parts(
    settings: Sequence[ScoresOverSplits],
    means: np.ndarray,
    of_movies: np.ndarray,
    movies: Sequence[float],
    tuned: Sequence[VarianceComponent],
) -> list[VarianceComponent] | None:
    """Return the parts of the variance of a mean over splits: movies, thresholds, splits, and seeds where they are known.

    Args:
        settings: one, or two whose difference is meant.
        means: (K,), by split.
        of_movies: (K, N), the influences behind `means`.
        movies: the variance over draws of movies within each split.
        tuned: the variance over draws of val within each split.
    """
    splits, count = list(settings[0].splits.values()), len(means)
    ratios = [one.ratio for one in splits if one.ratio is not None]
    few = any(len(one.movies) < FEWEST_MOVIES for one in splits) or any(one.tuned_on_few for one in settings)
    if count < FEWEST_SPLITS or len(ratios) < count or few:
        return None
    # Products of different splits come from different runs, so only those within a split need the correction for seeds.
    across = float((of_movies.sum(axis=0) ** 2).sum() - (of_movies**2).sum())
    jackknife = VarianceComponent(max(0.0, across + sum(movies)) / count**2, of_movies.shape[1] - 1)
    thresholds = _thresholds([one.val for one in splits], tuned)
    seeds = [one.between_seeds for one in settings]
    known = [] if None in seeds else [part for part in seeds if part is not None]
    spread = float(means.var(ddof=1))
    ratio = float(np.mean(ratios))
    between = (1 / count + ratio) * spread
    if known:
        between = max(ratio * spread, between - sum(part.variance for part in (jackknife, thresholds, *known)))
    return [jackknife, thresholds, VarianceComponent(between, count - 1), *known]


def _thresholds(val: Sequence[tuple[str, ...]], tuned: Sequence[VarianceComponent]) -> VarianceComponent:
    """Return the variance of a mean over splits by draws of val; two splits covary by the share of val movies in common."""
    deviations = [math.sqrt(part.variance) for part in tuned]
    if not any(deviations):
        return VarianceComponent(0.0, math.inf)
    sets = [set(ids) for ids in val]
    shared = np.array([[len(a & b) / math.sqrt(len(a) * len(b)) for b in sets] for a in sets])
    total = float(deviations @ shared @ np.array(deviations))
    return VarianceComponent(total / len(tuned) ** 2, min(part.degrees for part in tuned))


@lru_cache(maxsize=16)
def _places(splits: tuple[tuple[str, ...], ...]) -> list[np.ndarray]:
    """Return the row of each split's movies in the pool, which has each movie once."""
    row: dict[str, int] = {}
    return [np.array([row.setdefault(movie, len(row)) for movie in movies]) for movies in splits]
