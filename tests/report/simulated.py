"""Settings whose true difference is known: runs that vary with their seed, on movies that vary from draw to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gmu_lightning.report.inference import Scored
from gmu_lightning.report.influence import Influence, influence


@dataclass(frozen=True)
class World:
    """Where a genre's logit is skill * (1 if the movie has it, else -1), blurred by the movie, the seed, and both together.

    Attributes:
        skill: of a setting; its seeds differ in it by `seed_sd`.
        movie_sd: how much harder one movie is than another, for every run alike.
        own_sd: what each run adds to each movie's logits.
        bias: a genre has 30 % of the movies, so fewer are predicted than missed.
        shares: of the movies that have each genre.
    """

    skill: float = 1.0
    seed_sd: float = 0.06
    movie_sd: float = 1.0
    own_sd: float = 0.7
    bias: float = -0.4
    shares: Sequence[float] = (0.3,) * 6

    def movies(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N, C) and how hard each movie's genres are (N, C)."""
        size = (count, len(self.shares))
        return rng.random(size) < np.array(self.shares), rng.normal(0, self.movie_sd, size)

    def runs(
        self, labels: np.ndarray, hard: np.ndarray, seeds: int, rng: np.random.Generator, metric: str = "f1_micro"
    ) -> Scored:
        """The scores of so many seeds on these movies."""
        found = [self._run(self.skill + rng.normal(0, self.seed_sd), labels, hard, rng, metric) for _ in range(seeds)]
        return Scored(np.array([f.score for f in found]), np.stack([f.psi for f in found]))

    def _run(self, skill: float, labels: np.ndarray, hard: np.ndarray, rng: np.random.Generator, metric: str) -> Influence:
        logits = skill * (2.0 * labels - 1) + hard + rng.normal(0, self.own_sd, labels.shape) + self.bias
        return influence(metric, labels, 1 / (1 + np.exp(-logits)))

    def truth(self, metric: str = "f1_micro") -> float:
        """The mean over all seeds and movies: seeds evenly through their distribution, each on movies of its own."""
        rng = np.random.default_rng(1)
        skills = stats.norm(self.skill, self.seed_sd or 1e-9).ppf((np.arange(300) + 0.5) / 300)
        return float(np.mean([self._run(skill, *self.movies(3_000, rng), rng, metric).score for skill in skills]))
