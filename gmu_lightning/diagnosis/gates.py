"""Replace the gates of a model: by those of other movies, and by their means (gate permutation, arXiv 2606.26473)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.diagnosis.crossing import CrossedMovies, groups, logits_of
from gmu_lightning.fusion.heads import MixtureHead


@dataclass(frozen=True)
class Gates:
    """The gates of N movies, and the logits that the model has under other gates.

    Attributes:
        values: (N, M, k), with k the size of the vector, 1, or the number of genres.
        logits_under: returns the logits (N, C) float64 under gates of the same shape.
        present: (N, M) bool.
    """

    values: Tensor
    logits_under: Callable[[Tensor], Tensor]
    present: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, movies: CrossedMovies) -> Gates | None:
        """Return the gates of a model, in float64; None if its fusion has none.

        In an additive fusion, part m is z_m * h_m. The gates of a mixture head are its weights, and its experts stay as they are.
        A gate of exactly 0 hides its h_m, which counts as 0. In float64 this happens far beyond the range of trained gates.
        """
        head, fused = movies.doubled()
        if isinstance(head, MixtureHead):
            return cls(head.weights(fused), lambda z: head.mixed(fused, z).double(), movies.present)
        if fused.gates is None or fused.parts is None:
            return None
        hidden = torch.where(fused.gates > 0, fused.parts / fused.gates, 0.0)  # (N, M, D)

        def logits_under(gates: Tensor) -> Tensor:
            parts = gates * hidden
            return logits_of(head, fused._replace(vector=parts.sum(dim=1), parts=parts, gates=gates))

        return cls(fused.gates, logits_under, movies.present)

    @torch.no_grad()
    def permuted(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Yield `count` times the change of the logits (N, C) if every movie gets the gates of another one.

        The gates go round among the movies that have the same modalities, all gates of a movie together.
        """
        rng, own = np.random.default_rng(seed), self.logits_under(self.values)
        for _ in range(count):
            source = torch.arange(len(self.values), device=self.values.device)
            for _, rows in groups(self.present):
                source[rows] = rows[torch.from_numpy(rng.permutation(len(rows))).to(rows.device)]
            yield (self.logits_under(self.values[source]) - own).cpu().numpy()

    @torch.no_grad()
    def averaged(self) -> np.ndarray:
        """Return the change of the logits (N, C) if every gate is its mean over the movies that have the same modalities."""
        means = self.values.clone()
        for _, rows in groups(self.present):
            means[rows] = self.values[rows].mean(dim=0)
        return (self.logits_under(means) - self.logits_under(self.values)).cpu().numpy()
