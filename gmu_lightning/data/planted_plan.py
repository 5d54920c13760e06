"""The plan of a task with a known answer: which genres every modality of a movie claims, and which modality tells the truth.

The latent switch of Arevalo et al. (2017, arXiv 1702.01992), carried over to genres. Every movie has a true
modality s and a common level t. Each modality claims genres of its own and shows a confidence, t + 1 if it is s and t
otherwise: nobody can tell s from one modality, and everybody from the difference between two. A switch genre's label is the
claim of modality s; a single-modality genre's label is the claim of that modality, whatever s is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gmu_lightning.movie import SPLITS

SWITCH_GENRES = ("Adventure", "Comedy", "Crime", "Horror", "Romance", "Western")
SINGLE_GENRES = {
    "text": ("Biography", "Mystery"),
    "image": ("Animation", "Fantasy"),
    "video": ("Sport", "War"),
    "audio": ("Music", "Musical"),
    "metadata": ("Documentary", "Short"),
}
CLAIM_SHARE = 0.4


@dataclass(frozen=True)
class Plan:
    """What is planted in N movies of M modalities and C genres.

    Attributes:
        modalities: names, in the order of every M axis.
        kinds: `{genre: "switch" | modality}`, in the order of every C axis.
        switch: (N,) int, the index of the modality that tells the truth.
        level: (N,) int in [0, levels - 2].
        claims: (N, M, C) bool, the genres each modality claims.
    """

    modalities: tuple[str, ...]
    kinds: dict[str, str]
    switch: np.ndarray
    level: np.ndarray
    claims: np.ndarray

    @property
    def genres(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def confidence(self) -> np.ndarray:
        """(N, M) int in [0, levels - 1]: one more in the modality that tells the truth."""
        return self.level[:, None] + (self.switch[:, None] == np.arange(len(self.modalities)))

    @property
    def labels(self) -> np.ndarray:
        """(N, C) bool: of a switch genre the claim of modality s, of any other the claim of its own modality."""
        by_switch = self.claims[np.arange(len(self.switch)), self.switch]
        is_switch = [kind == "switch" for kind in self.kinds.values()]
        return np.where(is_switch, by_switch, self.claims.any(axis=1))

    def rows(self, chosen: np.ndarray) -> Plan:
        """The plan of the chosen movies alone."""
        return Plan(self.modalities, self.kinds, self.switch[chosen], self.level[chosen], self.claims[chosen])


class PlantedVectors(NamedTuple):
    """A plan and one vector per movie and modality that says all the modality claims."""

    inputs: dict[str, np.ndarray]  # {modality: (N, d) float32}
    plan: Plan


def draw(movies: int, modalities: Sequence[str], levels: int, rng: np.random.Generator) -> Plan:
    """Draw the plan of `movies` movies. Claims are independent; a movie without any genre is drawn again."""
    kinds = dict.fromkeys(SWITCH_GENRES, "switch") | {genre: m for m in modalities for genre in SINGLE_GENRES[m]}
    claimable = np.array([[kind in ("switch", m) for kind in kinds.values()] for m in modalities])  # (M, C)
    drawn = 2 * movies + 8
    plan = Plan(
        tuple(modalities),
        kinds,
        rng.integers(len(modalities), size=drawn),
        rng.integers(levels - 1, size=drawn),
        (rng.random((drawn, *claimable.shape)) < CLAIM_SHARE) & claimable,
    )
    return plan.rows(np.flatnonzero(plan.labels.any(axis=1))[:movies])


def split_sizes(movies: int) -> dict[str, int]:
    """Two thirds for train, a sixth each for val and test."""
    return dict(zip(SPLITS, (movies - 2 * (movies // 6), movies // 6, movies // 6), strict=True))


def planted_vectors(
    movies: int,
    modalities: Sequence[str],
    seed: int,
    levels: int = 6,
    dim: int = 32,
    noise: float = 0.05,
) -> PlantedVectors:
    """The task on vectors: a modality's claims (+-1) and centred confidence, mixed at random, plus Gaussian noise."""
    rng = np.random.default_rng(seed)
    plan = draw(movies, modalities, levels, rng)
    inputs = {}
    for m, name in enumerate(modalities):
        claims = plan.claims[:, m, [kind in ("switch", name) for kind in plan.kinds.values()]]
        said = np.column_stack([2.0 * claims - 1.0, plan.confidence[:, m] - (levels - 1) / 2])  # (N, claims + 1)
        mixed = said @ rng.normal(size=(said.shape[1], dim)) / np.sqrt(said.shape[1])
        inputs[name] = (mixed + noise * rng.normal(size=mixed.shape)).astype(np.float32)
    return PlantedVectors(inputs, plan)
