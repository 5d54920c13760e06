"""The best additive approximation of a model's logits (EMAP, Hessel & Lee 2020, arXiv 2010.06572).

Over all pairings of the modalities of a split's movies, the projection of the logits f onto sums of one function per modality is

    f(x) ~ sum_m E[f | x_m] - (M - 1) E[f].

It is the first-order part of the functional analysis of variance. Movies are paired with those that have the same modalities.
So a mean over the present modalities still counts as additive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.diagnosis.crossing import CrossedMovies, groups, logits_of
from gmu_lightning.fusion.heads import LinearHead
from gmu_lightning.movie import Fused

PARTNERS, OF_SEQUENCES = 64, 16  # of a movie, if its pairings are sampled.
PAIRED = 2**18  # Numbers in a block of pairings. It fits into a core's cache.
PROBES = 32  # Pairs of movies that test a model for additivity.
ROUNDING = 1e-5  # Relative error of float32.
ROUNDS, SMALL = 500, 1e-10  # Limits of the least squares fit.


class Additive(NamedTuple):
    """An additive approximation.

    Attributes:
        logits: (N, C) float64.
        partners: number of partners of each movie; None where the approximation is exact, over all pairings.
    """

    logits: np.ndarray
    partners: int | None


@torch.no_grad()
def additive(movies: CrossedMovies, logits: np.ndarray, seed: int = 0) -> Additive:
    """Return the additive approximation of the logits (N, C) of all movies.

    If two modalities meet and the fusion can `join` what concerns each alone, all pairings are computed. Otherwise every movie
    gets partners that the seed draws. The additive functions are then fitted to these pairings by least squares. The fit is
    exact for an additive model, and leaves some noise of the interactions in others.

    Args:
        movies: the model and its movies.
        logits: of the movies as they are. An additive model gets them back unchanged.
        seed: of the partners.
    """
    result, drawn = logits.copy(), None
    pairing = Pairing.of(movies)
    for pattern, rows in groups(movies.present):
        there = np.flatnonzero(pattern).tolist()
        if len(there) < 2 or len(rows) < 2 or pairing.is_additive(rows, there, seed):
            continue
        if pairing.separate is not None and len(there) == 2:
            interaction = pairing.of_all_pairs(rows, there)
        else:
            count = PARTNERS if movies.fusion.needs == "vector" else OF_SEQUENCES
            exact = len(there) == 2 and count >= len(rows)
            interaction = pairing.of_partners(rows, there, len(rows) if exact else count, seed)
            drawn = drawn if exact else count
        result[rows.cpu().numpy()] -= interaction
    return Additive(result, drawn)


@dataclass(frozen=True)
class Pairing:
    """Movies of one group whose modalities are paired anew.

    Attributes:
        movies: the model and its movies.
        separate: for each modality what `Fusion.join` needs of it, (N, k_m); None for a fusion that cannot `join`.
    """

    movies: CrossedMovies
    separate: list[Tensor] | None

    @classmethod
    def of(cls, movies: CrossedMovies) -> Pairing:
        """Compute once what concerns each modality alone. A `join` that disagrees with the fusion itself is not used."""
        fusion, present = movies.fusion, movies.present
        if movies.vectors is None:
            return cls(movies, None)
        inputs = [torch.where(present[:, i, None], x, 0.0) for i, x in enumerate(movies.vectors.values())]
        separate = fusion.separate(inputs)
        if separate is None:
            return cls(movies, None)
        vector = fusion(movies.vectors, present).vector
        joined = fusion.join(separate, present[..., None]).vector
        return cls(movies, separate if torch.allclose(vector, joined, rtol=ROUNDING, atol=10 * ROUNDING) else None)

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits (n, C) float64 of made movies (n, M), which all have the same modalities."""
        if self.separate is None:
            return torch.from_numpy(self.movies.logits(rows))
        present = self.movies.present[rows[:1], torch.arange(rows.shape[1], device=rows.device)]
        found = []
        for part in rows.split(self.movies.at_once):
            fused = self.movies.fusion.join([x[part[:, i]] for i, x in enumerate(self.separate)], present[..., None])
            found.append(logits_of(self.movies.head, fused).cpu())
        return torch.cat(found)

    def is_additive(self, rows: Tensor, there: list[int], seed: int) -> bool:
        """Return whether exchanging any modality leaves the sum of two movies unchanged, on some pairs of movies."""
        rng = np.random.default_rng(seed)
        pairs = torch.from_numpy(rng.integers(len(rows), size=(2, PROBES))).to(rows.device)
        one, other = (rows[pair][:, None].repeat(1, self.movies.present.shape[1]) for pair in pairs)
        own, theirs = self.logits(one), self.logits(other)
        most = ROUNDING * (1 + float(max(own.abs().max(), theirs.abs().max())))
        for m in there[:-1]:
            swapped, back = one.clone(), other.clone()
            swapped[:, m], back[:, m] = other[:, m], one[:, m]
            if float((own + theirs - self.logits(swapped) - self.logits(back)).abs().max()) > most:
                return False
        return True

    def of_all_pairs(self, rows: Tensor, there: list[int]) -> np.ndarray:
        """Return the logits of the movies in `rows` minus their additive approximation over all pairings, (n, C) float64.

        Under a linear head, the fused vectors are averaged, and the head is applied to their means.
        """
        assert self.separate is not None
        head, (a, b) = self.movies.head, there
        linear = isinstance(head, LinearHead)
        present = self.movies.present[rows[0]][:, None]  # (M, 1)

        def values(left: Tensor, right: Tensor) -> Tensor:
            """Return the values of pairings: rows of modality a, and rows of modality b, which broadcast against each other."""
            parts = [x[rows[:1]] for x in self.separate or ()]  # those of absent modalities are equal for all movies
            parts[a], parts[b] = left, right
            vector = self.movies.fusion.join(parts, present).vector
            return vector if linear else logits_of(head, Fused(vector.flatten(0, -2))).unflatten(0, vector.shape[:-1])

        left, right = self.separate[a][rows], self.separate[b][rows]
        own = values(left, right).double()
        by_left, by_right = torch.empty_like(own), torch.zeros_like(own)
        for part in _blocks(len(rows), own.shape[1] if linear else self.movies.fusion.size):
            block = values(left[part, None], right[None])  # (rows of the block, n, D or C)
            by_left[part] = block.mean(dim=1).double()
            by_right += block.sum(dim=0).double()
        by_right /= len(rows)
        interaction = own - by_left - by_right + by_left.mean(dim=0)
        if isinstance(head, LinearHead):
            interaction = interaction @ head.weight.double().T
        return interaction.cpu().numpy()

    def of_partners(self, rows: Tensor, there: list[int], partners: int, seed: int) -> np.ndarray:
        """Return what `of_all_pairs` does, estimated from some partners of each movie, for any number of modalities."""
        design = _design(len(rows), len(there), partners, np.random.default_rng(seed))  # (K, P, n)
        made = rows[None, :, None].repeat(partners, 1, self.movies.present.shape[1])  # (K, n, M)
        for p, m in enumerate(there):
            made[:, :, m] = rows[torch.from_numpy(design[:, p]).to(rows.device)]
        found = self.logits(made.flatten(0, 1)).numpy().reshape(partners, len(rows), -1)
        return np.asarray(found[0] - _additive_fit(found, design))


def _blocks(count: int, width: int) -> Iterator[slice]:
    size = max(1, PAIRED // (count * width))
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def _design(count: int, modalities: int, partners: int, rng: np.random.Generator) -> np.ndarray:
    """Return whose modalities are put together, (K, P, n): in every made set, each movie gives each modality once.

    The first set is the movies as they are. Two modalities never meet twice, so K = n is all pairings.
    """
    design = np.tile(np.arange(count), (partners, modalities, 1))
    if modalities == 2:
        order = rng.permutation(count)
        shifts = rng.permutation(count - 1)[: partners - 1] + 1
        for k, shift in enumerate(shifts, 1):
            design[k, 1, order] = np.roll(order, shift)
        return design
    for k in range(1, partners):
        design[k, 1:] = [rng.permutation(count) for _ in range(modalities - 1)]
    return design


def _additive_fit(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Return the fitted values (n, C) of the first set, of the additive model that is nearest to all values (K, n, C).

    The effects of one modality after the other are set to their means (backfitting), until they are stable.
    """
    partners, modalities, _ = design.shape
    mean = values.mean(axis=(0, 1))
    sets = np.arange(partners)[:, None]
    inverse = np.argsort(design, axis=2)  # (K, P, n): the position at which a movie gives its modality
    effects = np.zeros((modalities, *values.shape[1:]))
    left = values - mean  # residuals
    most = SMALL * (1 + np.abs(left).max())
    for _ in range(ROUNDS):
        change = 0.0
        for p in range(modalities):
            step = left[sets, inverse[:, p]].mean(axis=0)
            effects[p] += step
            left -= step[design[:, p]]
            change = max(change, float(np.abs(step).max()))
        if change < most:
            break
    return np.asarray(mean + effects.sum(axis=0))
