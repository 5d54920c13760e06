"""The late-fusion transformer, over the tokens or the vectors of the modalities: the baseline that fusions must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Few, Positive, Probability, Size
from gmu_lightning.fusion.base import Fusion, everyone, tokens
from gmu_lightning.movie import Features, Fused
from gmu_lightning.nn.transformer import TransformerLayer


class LateTransformer(Fusion):
    """h = LN([CLS]) after pre-norm transformer layers over [CLS] and the tokens W_m x_m + e_m of every modality m.

    e_m is a learned embedding of the modality, and absent modalities are masked. Under equal tuning, 18 other fusions did not
    reliably beat this baseline (SimBaMM, arXiv 2512.22991). A modality without a sequence is a single token, its vector. Tokens
    get no positions, since the tokens of encoders know theirs. Feed-forward layers use GELU.

    Args:
        sizes, dim: as in Fusion.
        sequences: the modalities that have a sequence.
        layers: number of transformer layers.
        heads: number of attention heads; must divide `dim`.
        dropout: probability in the layers, and on the input of the first.
        lr_scale: learning rate of the fusion's weights, as a multiple of `optimizer.lr`.
        head: as in Fusion.

    Raises:
        UserError: `heads` does not divide `dim`.
    """

    needs = "sequence"
    unimodal = False

    def __init__(
        self,
        sizes: Mapping[str, int],
        sequences: Sequence[str] = (),
        dim: Size = 256,
        layers: Few = 2,
        heads: Few = 4,
        dropout: Probability = 0.0,
        lr_scale: Positive = 0.3,
        **head: Any,
    ):
        super().__init__(sizes, dim, **head)
        self.sequences, self.lr_scale = tuple(sequences), lr_scale
        self.project = nn.ModuleDict({m: nn.Linear(d, dim) for m, d in self.sizes.items()})
        self.modality = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(dim)) for m in self.sizes})
        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, dropout, nn.GELU) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Fused:
        """Fuse {modality: Features} under `present` (B, M) bool."""
        there = everyone(inputs, present)
        states, masks = [], []
        for i, m in enumerate(self.sizes):
            x, mask = tokens(inputs[m] if m in self.sequences else Features(inputs[m].vector), there[:, i])
            states.append(self._embedded(m, x))
            masks.append(mask)
        return Fused(self._read(torch.cat(states, dim=1), torch.cat(masks, dim=1)))

    def _embedded(self, modality: str, x: Tensor) -> Tensor:
        embedded: Tensor = self.project[modality](x) + self.modality[modality]
        return embedded

    def _read(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [CLS] (B, D) after it has read the tokens x (B, T, D) where `mask` (B, T) is True, or 0 if there are none."""
        x = self.dropout(torch.cat([self.cls.expand(x.shape[0], 1, -1), x], dim=1))
        real = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        for layer in self.layers:
            x = layer(x, real)
        return torch.where(mask.any(dim=1, keepdim=True), self.norm(x[:, 0]), 0.0)


class LateTransformerOfVectors(LateTransformer):
    """Read the vector of every modality as a single token, also where an encoder gives a sequence.

    So it has the same inputs as gates that weigh vectors, and trains as fast.
    """

    needs = "vector"

    def forward(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Fused:
        """Fuse {modality: (B, ..., d_m)} under `present` (B, M) bool."""
        return Fusion.forward(self, inputs, present)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Fuse inputs (B, ..., d_m), in the order of `sizes`; `present` is (B, ..., M, 1) bool."""
        x = torch.stack([self._embedded(m, x) for m, x in zip(self.sizes, inputs, strict=True)], dim=-2)  # (B, ..., M, D)
        there = present[..., 0].expand(x.shape[:-1])
        return Fused(self._read(x.flatten(0, -3), there.flatten(0, -2)).view(*x.shape[:-2], self.dim))
