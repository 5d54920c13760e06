"""Intervals and tests for scores that vary with the test movies and the training seeds.

The scores of one setting's runs on one split vary for three reasons: movies, seeds, and their interaction. All runs share the
movies. Therefore a setting's mean over S seeds has the variance

    movies + s^2 / S.

s^2 is the variance of the scores between seeds, and includes the interaction. `movies` is the covariance between different runs
of the setting over draws of movies (infinitesimal jackknife). For a difference of two settings, it is the variance of the paired
difference. Thresholds tuned on val add the covariance between different runs over draws of val (influence.py), also paired.

Intervals are Student's, with degrees of freedom by Welch and Satterthwaite. A bootstrap of three or five seeds underestimates the
variance between seeds, and its 95 % intervals are too short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gmu_lightning.report.settings import FEWEST_SEEDS

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8  # of a planned comparison
FEWEST_MOVIES = 2  # the fewest with a variance
FEWEST_TUNED = 20  # val movies for tuned thresholds; 10 gave too many false findings
MOST_SEEDS = 200  # the largest number worth training
WORTH_TRAINING = range(FEWEST_SEEDS, MOST_SEEDS + 1)  # seeds
DRAWS = 9_999  # of a bootstrap or permutation test
AT_ONCE = 20_000_000  # numbers in a block of draws


class VarianceComponent(NamedTuple):
    """One independent contribution to a variance, with its degrees of freedom."""

    variance: float
    degrees: float  # infinite for an exact value


class Interval(NamedTuple):
    """An estimate with its 95 % interval; the ends are None for too few seeds or movies."""

    mean: float
    low: float | None
    high: float | None

    def negated(self) -> Interval:
        """Return the interval of the opposite difference."""
        return Interval(-self.mean, None if self.high is None else -self.high, None if self.low is None else -self.low)


class Retuned(NamedTuple):
    """Scores of one setting's runs with thresholds tuned again on B draws of val. All settings share the draws."""

    scores: np.ndarray  # (S, B)
    movies: int  # of val


@dataclass(frozen=True)
class SplitScores:
    """The runs of one setting on one split of N movies.

    Attributes:
        scores: (S,), one per seed.
        influence: (S, N), the contribution of each movie to each score.
        retune: computes the scores under other draws of val; None for a fixed threshold.
    """

    scores: np.ndarray
    influence: np.ndarray
    retune: Callable[[], Retuned] | None = None

    @property
    def seeds(self) -> int:
        """Number of runs, S."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(self.scores.mean())

    @property
    def between_seeds(self) -> VarianceComponent | None:
        """s^2 / S; None below three seeds, two movies, or 20 val movies for tuned thresholds."""
        if self.seeds < FEWEST_SEEDS or self.influence.shape[1] < FEWEST_MOVIES or self.tuned_on_few:
            return None
        return VarianceComponent(float(self.scores.var(ddof=1)) / self.seeds, self.seeds - 1)

    @cached_property
    def of_movies(self) -> np.ndarray:
        """Mean influence over seeds, (N,)."""
        return self.influence.mean(axis=0)

    @cached_property
    def between_movies(self) -> float:
        """Covariance of two different runs over draws of movies; the variance for a single run."""
        return _between_runs(self.influence) / self.influence.shape[1] ** 2

    @cached_property
    def retuned(self) -> Retuned | None:
        """Retuned scores minus their mean over the draws of val; None for a fixed threshold."""
        if self.retune is None:
            return None
        found = self.retune()
        return Retuned(found.scores - found.scores.mean(axis=1, keepdims=True), found.movies)

    @property
    def tuned_on_few(self) -> bool:
        """Whether thresholds were tuned on fewer than 20 movies."""
        return self.retuned is not None and self.retuned.movies < FEWEST_TUNED

    def of_thresholds(self, other: SplitScores | None = None) -> VarianceComponent:
        """Return the covariance of two different runs over draws of val, or with `other` that of the paired difference."""
        if self.retuned is None:
            return VarianceComponent(0.0, math.inf)
        draws = self.retuned.scores.shape[1]
        found = _between_runs(self.retuned.scores)
        if other is not None and other.retuned is not None:
            found += _between_runs(other.retuned.scores)
            found -= 2 * float(self.retuned.scores.mean(axis=0) @ other.retuned.scores.mean(axis=0))
        return VarianceComponent(max(0.0, found) / (draws - 1), min(draws, self.retuned.movies) - 1)

    @property
    def interval(self) -> Interval:
        """Interval of the mean over all seeds and movies, within [0, 1]."""
        if self.between_seeds is None:
            return Interval(self.mean, None, None)
        movies = VarianceComponent(max(0.0, self.between_movies), self.influence.shape[1] - 1)
        return self._within(half_width([movies, self.of_thresholds(), self.between_seeds]))

    @property
    def interval_of_movies(self) -> Interval:
        """Interval over draws of movies for these runs alone, within [0, 1]. Another seed may lie outside."""
        count = self.influence.shape[1]
        if count < FEWEST_MOVIES:
            return Interval(self.mean, None, None)
        return self._within(half_width([VarianceComponent(max(0.0, self.between_movies), count - 1)]))

    def _within(self, half: float) -> Interval:
        return Interval(self.mean, max(0.0, self.mean - half), min(1.0, self.mean + half))


class Tested:
    """A difference of means with an interval and a test, from the parts of its variance."""

    @property
    def mean(self) -> float:
        """Difference of the mean scores."""
        raise NotImplementedError

    @property
    def parts(self) -> list[VarianceComponent] | None:
        """Parts of the variance; None for too little data."""
        raise NotImplementedError

    @property
    def interval(self) -> Interval:
        """Interval of the difference over everything that `parts` has."""
        return Interval(self.mean, None, None) if self.parts is None else around(self.mean, self.parts)

    @property
    def p(self) -> float | None:
        """Two-sided p of no difference; None without `parts`."""
        return None if self.parts is None else p_of(self.mean, self.parts)


@dataclass(frozen=True)
class Difference(Tested):
    """Setting a minus setting b, on the same movies."""

    a: SplitScores
    b: SplitScores

    @property
    def mean(self) -> float:
        """Difference of the mean scores."""
        return self.a.mean - self.b.mean

    @cached_property
    def between_movies(self) -> float:
        """Variance of the paired difference over draws of movies."""
        count = self.a.influence.shape[1]
        shared = float(self.a.of_movies @ self.b.of_movies) / count**2
        return max(0.0, self.a.between_movies + self.b.between_movies - 2 * shared)

    @property
    def parts(self) -> list[VarianceComponent] | None:
        """Parts of the variance; None for too few seeds or movies."""
        seeds = [self.a.between_seeds, self.b.between_seeds]
        if None in seeds:
            return None
        return [*self.shared, *(part for part in seeds if part is not None)]

    @property
    def shared(self) -> list[VarianceComponent]:
        """Parts that more seeds leave unchanged: of the movies, and of thresholds tuned on val."""
        return [VarianceComponent(self.between_movies, self.a.influence.shape[1] - 1), self.a.of_thresholds(self.b)]

    @property
    def interval_of_movies(self) -> Interval:
        """Interval over draws of movies for these runs alone. Other seeds may lie outside."""
        count = self.a.influence.shape[1]
        if count < FEWEST_MOVIES:
            return Interval(self.mean, None, None)
        return around(self.mean, [VarianceComponent(self.between_movies, count - 1)])

    @property
    def effect(self) -> float | None:
        """Hedges' g, the difference in standard deviations between seeds; None without a spread."""
        if self.parts is None:
            return None
        degrees = self.a.seeds + self.b.seeds - 2
        squares = (self.a.seeds - 1) * self.a.scores.var(ddof=1) + (self.b.seeds - 1) * self.b.scores.var(ddof=1)
        return hedges(self.mean, squares, degrees)

    @property
    def superiority(self) -> float:
        """Probability that a run of `a` scores above a run of `b`; ties count half (Vargha & Delaney 2000)."""
        sign = np.sign(self.a.scores[:, None] - self.b.scores[None, :])
        return float((sign + 1).mean() / 2)

    def seeds_needed(self, alpha: float = ALPHA) -> int | None:
        """Return the seeds of each setting that detect this difference with 80 % power; None above `MOST_SEEDS`.

        Few seeds estimate the variance between seeds badly, so the plan uses its upper 80 % bound (Browne 1995).
        """
        planned = () if self.parts is None or self.mean == 0 else WORTH_TRAINING
        return next((seeds for seeds in planned if self.power(seeds, alpha) >= POWER), None)

    def power(self, seeds: int, alpha: float = ALPHA) -> float:
        """Return the power of this number of seeds at the significance level `alpha`, as planned by `seeds_needed`."""
        from scipy.stats import chi2

        spreads = [s.scores.var(ddof=1) * (s.seeds - 1) / chi2.ppf(0.2, s.seeds - 1) for s in (self.a, self.b)]
        parts = [*self.shared, *(VarianceComponent(spread / seeds, seeds - 1) for spread in spreads)]
        return power_of(self.mean, parts, alpha)


def _between_runs(rows: np.ndarray) -> float:
    """Return the mean product of two different rows of (S, K), summed over K; for one row its square."""
    each = float(np.einsum("sk,sk->", rows, rows))
    if len(rows) == 1:
        return each
    together = float((rows.sum(axis=0) ** 2).sum())
    return (together - each) / (len(rows) * (len(rows) - 1))


def _degrees(parts: Sequence[VarianceComponent]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of estimated variances."""
    return sum(p.variance for p in parts) ** 2 / sum(p.variance**2 / p.degrees for p in parts)


def half_width(parts: Sequence[VarianceComponent]) -> float:
    """Return half the length of the 95 % interval of an estimate with these parts of its variance."""
    from scipy.stats import t

    sd = math.sqrt(sum(part.variance for part in parts))
    return sd and float(t.isf((1 - LEVEL) / 2, _degrees(parts))) * sd


def around(mean: float, parts: Sequence[VarianceComponent]) -> Interval:
    """Return the interval of a mean with these parts of its variance."""
    half = half_width(parts)
    return Interval(mean, mean - half, mean + half)


def p_of(mean: float, parts: Sequence[VarianceComponent]) -> float:
    """Return the two-sided p of an estimate if the true value is 0."""
    from scipy.stats import t

    sd = math.sqrt(sum(part.variance for part in parts))
    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / sd, _degrees(parts)))


def power_of(mean: float, parts: Sequence[VarianceComponent], alpha: float) -> float:
    """Return the probability that an estimate of this true value is significant at the level `alpha`."""
    from scipy.stats import nct, t

    sd = math.sqrt(sum(part.variance for part in parts))
    if sd == 0:
        return 1.0
    degrees = _degrees(parts)
    return float(nct.sf(t.isf(alpha / 2, degrees), degrees, abs(mean) / sd))


def hedges(mean: float, squares: float, degrees: int) -> float | None:
    """Return Hedges' g; None without a spread. `squares` is the sum of squares within groups, with these degrees of freedom."""
    pooled = squares / degrees
    return None if pooled == 0 else float(mean / math.sqrt(pooled) * (1 - 3 / (4 * degrees - 1)))


class Resampled(NamedTuple):
    """Two resampling tests of a difference."""

    low: float | None  # the middle 95 % of a bootstrap over movies and seeds; None for too few seeds
    high: float | None
    p_bootstrap: float | None  # the bootstrap's share beyond 0, doubled
    p_permutation: float | None  # by swapping the settings movie by movie, for these runs alone


class Resampling:
    """Bootstrap and permutation tests, for settings on the same or different movies. There are none over several splits.

    The bootstrap is hierarchical. Each draw takes N movies, which all settings on these movies share, and S seeds of each
    setting, with replacement. Tuned thresholds also take one draw of val.
    """

    def __init__(self, settings: Sequence[SplitScores], pairs: Sequence[Difference]):
        self._settings = settings  # keeps their ids valid
        self._means: dict[int, np.ndarray] = {}
        self._p: dict[int, float] = {}
        for count in {_movies(one) for one in settings}:
            self._means |= _bootstrap_means([one for one in settings if _movies(one) == count])
            of_these = [pair for pair in pairs if _movies(pair.a) == count]
            self._p |= zip(map(id, of_these), _permuted(of_these), strict=True)

    def interval(self, one: object) -> tuple[float, float] | tuple[None, None]:
        """Return the middle 95 % of a setting's drawn means; None for too few seeds or movies."""
        known = isinstance(one, SplitScores) and one.between_seeds is not None
        return _middle(self._means[id(one)]) if known else (None, None)

    def of(self, pair: object) -> Resampled:
        """Return both tests of a difference."""
        if not isinstance(pair, Difference):
            return Resampled(None, None, None, None)
        if pair.parts is None:
            return Resampled(None, None, None, self._p[id(pair)])
        drawn = self._means[id(pair.a)] - self._means[id(pair.b)]
        tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        return Resampled(*_middle(drawn), min(1.0, 2 * (tail + 1) / (len(drawn) + 1)), self._p[id(pair)])


def _bootstrap_means(settings: Sequence[SplitScores]) -> dict[int, np.ndarray]:
    """Return {id of a setting: its drawn means, (DRAWS,)}, for settings on the same N movies."""
    rng = np.random.default_rng(0)
    runs = np.concatenate([one.influence for one in settings]).astype(np.float32)
    count = runs.shape[1]
    means = np.empty((DRAWS, len(settings)))
    for block in _blocks(count):
        weights = _multinomial(rng, count, block.stop - block.start)
        moved = (weights - 1) @ runs.T / count  # (draws of the block, R)
        column = 0
        for n, one in enumerate(settings):
            chosen = rng.integers(one.seeds, size=(len(moved), one.seeds))
            scores = one.scores + moved[:, column : column + one.seeds]
            if one.retuned is not None:  # all settings share the draw of val
                scores += one.retuned.scores.T[np.arange(block.start, block.stop) % one.retuned.scores.shape[1]]
            means[block, n] = np.take_along_axis(scores, chosen, axis=1).mean(axis=1)
            column += one.seeds
    return {id(one): means[:, n] for n, one in enumerate(settings)}


def _permuted(pairs: Sequence[Difference]) -> list[float]:
    """Return p of each pair by random signs of the movies' mean differences. All pairs share the movies."""
    if not pairs:
        return []
    rng = np.random.default_rng(0)
    differences = np.stack([p.mean + p.a.of_movies - p.b.of_movies for p in pairs], axis=1)
    count = len(differences)
    observed = np.abs(differences.mean(axis=0))
    beyond = np.zeros(len(pairs), dtype=int)
    for block in _blocks(count):
        signs = (rng.integers(0, 2, size=(block.stop - block.start, count), dtype=np.int8) * 2 - 1).astype(np.float32)
        beyond += (np.abs(signs @ differences.astype(np.float32)) / count >= observed - 1e-9).sum(axis=0)
    return ((beyond + 1) / (DRAWS + 1)).tolist()


def _blocks(count: int) -> Iterator[slice]:
    size = max(1, AT_ONCE // count)
    return (slice(start, min(DRAWS, start + size)) for start in range(0, DRAWS, size))


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _multinomial(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """Return how often each movie occurs in draws of `count` movies with replacement: (draws, count) float32."""
    chosen = rng.integers(count, size=(draws, count), dtype=np.int32) + np.arange(draws, dtype=np.int64)[:, None] * count
    return np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float32)


def _movies(one: SplitScores) -> int:
    return one.influence.shape[1]
