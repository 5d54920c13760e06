"""What can be claimed of scores that depend on which movies were tested and on which seeds were trained.

The scores of one setting's runs on one split vary for three reasons: the split's movies (shared by all runs on it), the seeds
(each run has its own), and both together (each run errs on its own movies). So a setting's mean over S seeds has the variance

    movies + s^2 / S,

s^2 the variance of the scores between the seeds, which holds the third part already, and `movies` the covariance between
different runs of the setting over draws of movies (infinitesimal jackknife). For a difference of two settings the movies' part is
that of the paired difference. Thresholds tuned on val add a part: the covariance between different runs over draws of val, each
draw tuned again (report/thresholds.py). It is paired too, and all seeds share it.

Intervals are Student's, their degrees of freedom Welch and Satterthwaite's: a bootstrap that draws three or five seeds with
replacement knows too little of how seeds vary, and its 95 % intervals cover far less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
FEWEST_SEEDS = 3  # two say too little of how seeds vary: intervals from them are too short, and called different too often
FEWEST_MOVIES = 2  # one says nothing of how movies vary
FEWEST_TUNED = 20  # val movies to tune thresholds on; with 10 equal settings were called different too often
MOST_SEEDS = 200  # more are not worth asking for


class Part(NamedTuple):
    """One independent contribution to a variance, and how well it is known."""

    variance: float
    degrees: float  # of freedom; infinite where it is not estimated


class Interval(NamedTuple):
    """An estimate, and an interval that holds the true value 95 times in 100; no ends where seeds or movies are too few."""

    mean: float
    low: float | None
    high: float | None


class Retuned(NamedTuple):
    """Scores of one setting's runs, their thresholds tuned again on B draws of val; all settings see the same draws."""

    scores: np.ndarray  # (S, B)
    movies: int  # of val


@dataclass(frozen=True)
class Scored:
    """The runs of one setting on one split of N movies.

    Attributes:
        scores: (S,), one per seed.
        influence: (S, N), what each movie adds to each score.
        retune: computes the scores under other draws of val; None where no threshold was tuned.
    """

    scores: np.ndarray
    influence: np.ndarray
    retune: Callable[[], Retuned] | None = None

    @property
    def seeds(self) -> int:
        """S."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(self.scores.mean())

    @property
    def between_seeds(self) -> Part | None:
        """s^2 / S; None for fewer than three seeds or two movies, or 20 val movies to tune on: of these nothing is said."""
        if self.seeds < FEWEST_SEEDS or self.influence.shape[1] < FEWEST_MOVIES or self.tuned_on_few:
            return None
        return Part(float(self.scores.var(ddof=1)) / self.seeds, self.seeds - 1)

    @cached_property
    def of_movies(self) -> np.ndarray:
        """(N,) the mean influence over seeds."""
        return self.influence.mean(axis=0)

    @cached_property
    def between_movies(self) -> float:
        """Covariance of two different runs of the setting over draws of movies; of one run its variance."""
        return _between_runs(self.influence) / self.influence.shape[1] ** 2

    @cached_property
    def retuned(self) -> Retuned | None:
        """The scores less their mean over the draws of val."""
        if self.retune is None:
            return None
        found = self.retune()
        return Retuned(found.scores - found.scores.mean(axis=1, keepdims=True), found.movies)

    @property
    def tuned_on_few(self) -> bool:
        """Whether thresholds were tuned on fewer than 20 movies."""
        return self.retuned is not None and self.retuned.movies < FEWEST_TUNED

    def of_thresholds(self, other: Scored | None = None) -> Part:
        """The covariance of two different runs over draws of val; with another setting that of the paired difference."""
        if self.retuned is None:
            return Part(0.0, math.inf)
        draws = self.retuned.scores.shape[1]
        found = _between_runs(self.retuned.scores)
        if other is not None and other.retuned is not None:
            found += _between_runs(other.retuned.scores)
            found -= 2 * float(self.retuned.scores.mean(axis=0) @ other.retuned.scores.mean(axis=0))
        return Part(max(0.0, found) / (draws - 1), min(draws, self.retuned.movies) - 1)

    @property
    def interval(self) -> Interval:
        """Of the mean over all seeds and all such movies; scores are fractions, and so are its ends."""
        if self.between_seeds is None:
            return Interval(self.mean, None, None)
        movies = Part(max(0.0, self.between_movies), self.influence.shape[1] - 1)
        half = _half_width([movies, self.of_thresholds(), self.between_seeds])
        return Interval(self.mean, max(0.0, self.mean - half), min(1.0, self.mean + half))


@dataclass(frozen=True)
class Difference:
    """Setting a minus setting b, on the same movies."""

    a: Scored
    b: Scored

    @property
    def mean(self) -> float:
        """Of the scores."""
        return self.a.mean - self.b.mean

    @cached_property
    def between_movies(self) -> float:
        """The paired difference's variance over draws of movies."""
        count = self.a.influence.shape[1]
        shared = float(self.a.of_movies @ self.b.of_movies) / count**2
        return max(0.0, self.a.between_movies + self.b.between_movies - 2 * shared)

    @property
    def parts(self) -> list[Part] | None:
        """Of its variance; None where a setting has too few seeds, or the split too few movies."""
        seeds = [self.a.between_seeds, self.b.between_seeds]
        if None in seeds:
            return None
        return [*self.shared, *(part for part in seeds if part is not None)]

    @property
    def shared(self) -> list[Part]:
        """The parts that no number of seeds makes smaller: of the movies, and of thresholds tuned on val."""
        return [Part(self.between_movies, self.a.influence.shape[1] - 1), self.a.of_thresholds(self.b)]

    @property
    def interval(self) -> Interval:
        """Of the difference between the settings, whatever the seeds and the movies."""
        if self.parts is None:
            return Interval(self.mean, None, None)
        half = _half_width(self.parts)
        return Interval(self.mean, self.mean - half, self.mean + half)

    @property
    def p(self) -> float | None:
        """Two-sided, of no difference; None where a setting has too few seeds, or the split too few movies."""
        from scipy.stats import t

        if self.parts is None:
            return None
        sd = math.sqrt(sum(part.variance for part in self.parts))
        if sd == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * t.sf(abs(self.mean) / sd, _degrees(self.parts)))

    @property
    def effect(self) -> float | None:
        """Hedges' g: the difference in standard deviations between seeds, corrected for their small number."""
        if self.parts is None:
            return None
        degrees = self.a.seeds + self.b.seeds - 2
        pooled = ((self.a.seeds - 1) * self.a.scores.var(ddof=1) + (self.b.seeds - 1) * self.b.scores.var(ddof=1)) / degrees
        if pooled == 0:
            return None
        return float(self.mean / math.sqrt(pooled) * (1 - 3 / (4 * degrees - 1)))

    @property
    def superiority(self) -> float:
        """How often a run of `a` scores above a run of `b`, ties half (Vargha & Delaney 2000)."""
        sign = np.sign(self.a.scores[:, None] - self.b.scores[None, :])
        return float((sign + 1).mean() / 2)

    def seeds_needed(self, size: float | None = None, alpha: float = 1 - LEVEL, power: float = 0.8) -> int | None:
        """Seeds of each setting that would show a difference of `size` in `power` of all such comparisons; None if none would.

        The variance between seeds is known from few of them, so its upper 80 % bound is planned with (Browne 1995).

        Args:
            size: None takes the difference that was found.
            alpha: what p has to stay below.
        """
        size = abs(self.mean if size is None else size)
        if self.parts is None or size == 0:
            return None
        counts = range(FEWEST_SEEDS, MOST_SEEDS + 1)
        return next((seeds for seeds in counts if self._power(seeds, size, alpha) >= power), None)

    def power(self, seeds: int, alpha: float = 1 - LEVEL) -> float:
        """How often so many seeds of each setting would show a difference of the size that was found, as `seeds_needed` plans."""
        return self._power(seeds, abs(self.mean), alpha)

    def _power(self, seeds: int, size: float, alpha: float) -> float:
        from scipy.stats import chi2, nct, t

        assert self.parts is not None
        spreads = [s.scores.var(ddof=1) * (s.seeds - 1) / chi2.ppf(0.2, s.seeds - 1) for s in (self.a, self.b)]
        parts = [*self.shared, *(Part(spread / seeds, seeds - 1) for spread in spreads)]
        sd = math.sqrt(sum(part.variance for part in parts))
        if sd == 0:
            return 1.0
        degrees = _degrees(parts)
        return float(nct.sf(t.isf(alpha / 2, degrees), degrees, size / sd))


def _between_runs(rows: np.ndarray) -> float:
    """The mean product of two different rows of (S, K), summed over K; of a single row its own."""
    each = float(np.einsum("sk,sk->", rows, rows))
    if len(rows) == 1:
        return each
    together = float((rows.sum(axis=0) ** 2).sum())
    return (together - each) / (len(rows) * (len(rows) - 1))


def _degrees(parts: Sequence[Part]) -> float:
    """Satterthwaite's, of a sum of variances that are each estimated."""
    return sum(p.variance for p in parts) ** 2 / sum(p.variance**2 / p.degrees for p in parts)


def _half_width(parts: Sequence[Part]) -> float:
    from scipy.stats import t

    sd = math.sqrt(sum(part.variance for part in parts))
    return sd and float(t.isf((1 - LEVEL) / 2, _degrees(parts))) * sd


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p (Holm 1979); what has none is no comparison and counts for none."""
    known = sorted((value, n) for n, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, n) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[n] = highest
    return adjusted


def letters(names: Sequence[str], different: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The compact letter display: two names share a letter exactly if they are not told apart (Piepho 2004, insert and absorb).

    Args:
        names: best first; letters run from a in that order.
        different: the pairs that are told apart.
    """
    groups: list[frozenset[str]] = [frozenset(names)]
    for a, b in different:
        split = [part for group in groups for part in ((group - {a}, group - {b}) if {a, b} <= group else (group,))]
        groups = [g for n, g in enumerate(split) if not any(g < other or (g == other and m < n) for m, other in enumerate(split))]
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    alphabet = [_letter(n) for n in range(len(groups))]
    return {name: "".join(x for x, group in zip(alphabet, groups, strict=True) if name in group) for name in names}


def _letter(n: int) -> str:
    return chr(ord("a") + n) if n < 26 else f"({n + 1})"
