"""Simulate settings with a known true difference. Runs vary with their seed, and movies vary from draw to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats

from gmu_lightning.report.influence import Influence, influence, retuned
from gmu_lightning.report.multiplicity import holm
from gmu_lightning.report.scoring import TUNED
from gmu_lightning.report.split_statistics import OneSplit, ScoresOverSplits, difference_of
from gmu_lightning.report.statistics import Difference, SplitScores

Split = tuple[np.ndarray, np.ndarray]  # labels and difficulties, both (N, C)


class Decisions(NamedTuple):
    """Labels and probabilities of a run on a split, both (N, C)."""

    labels: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class World:
    """A setting whose logits are skill * (1 with the genre, -1 without it), plus noise by movie, by seed and by both.

    Attributes:
        skill: mean skill of the setting.
        seed_sd: standard deviation of the skill between seeds.
        movie_sd: standard deviation of the movies' difficulty, which all runs share.
        own_sd: standard deviation of each run's own noise.
        taste_sd: standard deviation of the difficulty that only the runs of one setting share.
        bias: added to all logits; below 0, because most movies lack a genre.
        shares: share of the movies with each genre.
    """

    skill: float = 1.0
    seed_sd: float = 0.06
    movie_sd: float = 1.0
    own_sd: float = 0.7
    taste_sd: float = 0.0
    bias: float = -0.4
    shares: Sequence[float] = (0.3,) * 6

    def movies(self, count: int, rng: np.random.Generator) -> Split:
        """Draw labels and difficulties, both (N, C)."""
        size = (count, len(self.shares))
        return rng.random(size) < np.array(self.shares), rng.normal(0, self.movie_sd, size)

    def runs(
        self, labels: np.ndarray, hard: np.ndarray, seeds: int, rng: np.random.Generator, metric: str = "f1_micro"
    ) -> SplitScores:
        """Draw `seeds` runs on these movies, and return their scores."""
        found = [self._run(self.skill + rng.normal(0, self.seed_sd), labels, hard, rng, metric) for _ in range(seeds)]
        return SplitScores(np.array([f.score for f in found]), np.stack([f.psi for f in found]))

    def tuned(self, val: Split, test: Split, seeds: int, rng: np.random.Generator, metric: str) -> SplitScores:
        """Draw `seeds` runs, and return their test scores at .5 or at thresholds tuned on val (`f1_micro@val_per_genre`)."""
        kind, _, rule = metric.partition("@")
        splits = [(labels, hard + rng.normal(0, self.taste_sd, hard.shape)) for labels, hard in (val, test)]
        runs = []
        for _ in range(seeds):
            skill = self.skill + rng.normal(0, self.seed_sd)
            runs.append([Decisions(labels, self._decide(skill, labels, hard, rng)) for labels, hard in splits])
        found = [influence(kind, *t, TUNED[rule](*v) if rule else 0.5) for v, t in runs]
        retune = partial(retuned, kind, rule, [v for v, _ in runs], [t for _, t in runs]) if rule else None
        return SplitScores(np.array([f.score for f in found]), np.stack([f.psi for f in found]), retune)

    def _run(self, skill: float, labels: np.ndarray, hard: np.ndarray, rng: np.random.Generator, metric: str) -> Influence:
        return influence(metric, labels, self._decide(skill, labels, hard, rng))

    def _decide(self, skill: float, labels: np.ndarray, hard: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        logits = skill * (2.0 * labels - 1) + hard + rng.normal(0, self.own_sd, labels.shape) + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)))

    def truth(self, metric: str = "f1_micro") -> float:
        """Return the true mean score, over 300 evenly spaced quantiles of the seeds' skill, each on its own movies."""
        rng = np.random.default_rng(1)
        skills = stats.norm(self.skill, self.seed_sd or 1e-9).ppf((np.arange(300) + 0.5) / 300)
        return float(np.mean([self._run(skill, *self.movies(3_000, rng), rng, metric).score for skill in skills]))


# Genres as rare as MM-IMDb's, and settings that err on movies of their own as much as movies differ.
SHARES = (0.5, 0.35, 0.3, 0.25, 0.2, 0.18, 0.15, 0.13, 0.12, 0.1, 0.1, 0.09, 0.08, 0.08, 0.07, 0.06, 0.06, 0.05, 0.05, 0.04, 0.04)
MANY_GENRES = World(own_sd=0.5, taste_sd=1.0, shares=SHARES)


class FalseClaims(NamedTuple):
    """Shares of families of equal settings with a significant pair under Holm's correction."""

    fixed: float  # without the variance of tuned thresholds
    tuned: float  # with the variance of tuned thresholds


def false_claims(
    world: World, val: int, families: int, metric: str, test: int = 460, settings: int = 4, seeds: int = 3
) -> FalseClaims:
    """Draw families of equal settings, each family on its own movies, and return the shares with a false claim."""
    rng = np.random.default_rng(5)
    found = np.zeros(2)
    for _ in range(families):
        splits = world.movies(val, rng), world.movies(test, rng)
        tuned = [world.tuned(*splits, seeds, rng, metric) for _ in range(settings)]
        for n, those in enumerate(([replace(one, retune=None) for one in tuned], tuned)):
            p, _ = holm([Difference(a, b).p for a, b in combinations(those, 2)])
            found[n] += min(value for value in p if value is not None) < 0.05
    return FalseClaims(*(found / families).tolist())


@dataclass(frozen=True)
class Splits:
    """Settings on random splits of one pool of movies, which overlap.

    Attributes:
        pool: number of movies of the pool, which is drawn anew for each family.
        splits, seeds: number of splits, and of runs of a setting on each.
        shares: of train, val and test.
        train_sd: standard deviation of a setting's skill over draws of train. Each movie of train contributes to it, so that
            splits with common train movies have similar skills.
    """

    pool: int = 1_000
    splits: int = 5
    seeds: int = 5
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
    train_sd: float = 0.01

    def family(self, worlds: Sequence[World], rng: np.random.Generator, metric: str = "f1_micro") -> list[ScoresOverSplits]:
        """Draw a pool and its splits, and return the scores of one setting for each world."""
        labels, hard = worlds[0].movies(self.pool, rng)
        train, val = (round(share * self.pool) for share in self.shares[:2])
        orders = [rng.permutation(self.pool) for _ in range(self.splits)]
        found = []
        for world in worlds:
            own = hard + rng.normal(0, world.taste_sd, hard.shape)
            worth = rng.normal(0, self.train_sd * np.sqrt(train), self.pool)  # of each movie for training
            runs = {}
            for n, order in enumerate(orders):
                rows = order[train + val :]
                there = replace(world, skill=world.skill + float(worth[order[:train]].mean()))
                scores = there.runs(labels[rows], own[rows], self.seeds, rng, metric)
                ids = tuple(str(row) for row in rows)
                runs[f"random {n}"] = OneSplit(scores, ids, tuple(map(str, order[train : train + val])), len(rows) / train)
            found.append(ScoresOverSplits(runs))
        return found


class SplitClaims(NamedTuple):
    """Shares of families in which a pair is significant under Holm's correction."""

    naive: float  # by the plain variance between splits
    corrected: float
    power: float  # share of significant pairs with the first setting


def split_claims(splits: Splits, families: int, gain: float = 0.0, settings: int = 4, seed: int = 5) -> SplitClaims:
    """Draw families of settings, the first one with `gain` more skill than the others, and return their claims."""
    rng = np.random.default_rng(seed)
    world = World(seed_sd=0.02, taste_sd=0.5, own_sd=0.5, shares=(0.5, 0.35, 0.3, 0.25, 0.2, 0.12, 0.08, 0.05))
    worlds = [replace(world, skill=world.skill + gain), *[world] * (settings - 1)]
    found = np.zeros(3)
    for _ in range(families):
        pairs = [difference_of(a, b) for a, b in combinations(splits.family(worlds, rng), 2)]
        naive = [stats.ttest_rel(pair.a.means, pair.b.means).pvalue for pair in pairs]
        p = [value if value is not None else 1.0 for value in holm([pair.p for pair in pairs])[0]]
        found += min(holm(naive)[0]) < 0.05, min(p) < 0.05, np.mean([value < 0.05 for value in p[: settings - 1]])
    return SplitClaims(*(found / families).tolist())
