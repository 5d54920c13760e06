"""Attention bottlenecks: modalities exchange information through a few shared tokens only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Few, FromZero, Positive, Probability, Size
from gmu_lightning.fusion.base import Fusion, everyone, tokens
from gmu_lightning.movie import Features, Fused, UserError
from gmu_lightning.nn.transformer import TransformerLayer, sinusoids


class Bottleneck(Fusion):
    """h = 1/|P| sum over P of CLS_m, one transformer per modality, joined by B tokens (Nagrani et al. 2021, arXiv 2107.00135).

    P holds the movie's modalities. From layer `fusion_layer` on (counted from 0), [z_m; b_m] = Layer_m [z_m; b] and b = 1/|P| sum
    over P of b_m. The paper averages the logits of one classifier over modalities, which is that classifier over the averaged
    CLS: contributions are exact. A modality without a sequence is a single token, its vector. Feed-forward layers use GELU, as in
    the published code (github.com/google-research/scenic, projects/mbt/model.py). That code learns its positions and has one
    LayerNorm behind the last layer. Here positions are sinusoids, and each modality has a LayerNorm of its own.

    Args:
        sizes, dim: as in Fusion.
        sequences: the modalities that have a sequence.
        layers: number of transformer layers per modality.
        fusion_layer: first layer that reads the bottleneck tokens.
        bottlenecks: number of bottleneck tokens, B.
        heads: number of attention heads; must divide `dim`.
        dropout: probability in the layers, and on the input of the first.
        lr_scale: learning rate of the fusion's weights, as a multiple of `optimizer.lr`.
        head: as in Fusion.

    Raises:
        UserError: there is no layer `fusion_layer`, or `heads` does not divide `dim`.
    """

    needs = "sequence"

    def __init__(
        self,
        sizes: Mapping[str, int],
        sequences: Sequence[str],
        dim: Size = 256,
        layers: Few = 4,
        fusion_layer: FromZero = 2,
        bottlenecks: Few = 4,
        heads: Few = 4,
        dropout: Probability = 0.1,
        lr_scale: Positive = 0.3,
        **head: Any,
    ):
        super().__init__(sizes, dim, **head)
        if not 0 <= fusion_layer < layers:
            raise UserError(
                f"fusion.fusion_layer={fusion_layer} of fusion.layers={layers}: give one from 0 to the number of layers - 1"
            )
        self.sequences, self.fusion_layer, self.lr_scale = tuple(sequences), fusion_layer, lr_scale
        self.project = nn.ModuleDict({m: nn.Linear(d, dim) for m, d in self.sizes.items()})
        self.layers = nn.ModuleDict(
            {m: nn.ModuleList(TransformerLayer(dim, heads, dropout, nn.GELU) for _ in range(layers)) for m in self.sizes}
        )
        self.norms = nn.ModuleDict({m: nn.LayerNorm(dim) for m in self.sizes})
        self.cls = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(dim)) for m in self.sizes})
        self.bottlenecks = nn.Parameter(0.02 * torch.randn(bottlenecks, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Features], present: Tensor | None = None) -> Fused:  # type: ignore[override]
        """Fuse {modality: Features} under `present` (B, M) bool; the parts of the result are CLS_m / |P|."""
        there = everyone(inputs, present)
        shares = (there / there.sum(dim=1, keepdim=True).clamp_min(1)).to(self.bottlenecks.dtype)  # (B, M)
        states, masks = zip(*(self._embedded(m, inputs[m], there[:, i]) for i, m in enumerate(self.sizes)), strict=True)
        bottlenecks = self.bottlenecks.expand(there.shape[0], -1, -1)  # (B, n, D)
        for depth in range(len(self._layers_of(next(iter(self.sizes))))):
            shared = bottlenecks if depth >= self.fusion_layer else bottlenecks[:, :0]
            states, updates = self._layer(depth, states, masks, shared)
            if depth >= self.fusion_layer:
                bottlenecks = torch.einsum("bm,bmnd->bnd", shares, updates)
        cls = torch.stack([self.norms[m](x[:, 0]) for m, x in zip(self.sizes, states, strict=True)], dim=1)  # (B, M, D)
        parts = shares[..., None] * cls
        return Fused(parts.sum(dim=1), parts)

    def _embedded(self, modality: str, features: Features, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return [CLS_m; sqrt(D) W_m x_m + positions], (B, 1 + T, D), and the mask of its real tokens, (B, 1 + T).

        CLS is always real. A modality without a sequence enters as W_m x_m, without factor and position.
        """
        x, mask = tokens(features if modality in self.sequences else Features(features.vector), there)
        x = self.project[modality](x)
        if modality in self.sequences:
            x = math.sqrt(self.dim) * x + sinusoids(x)
        cls = self.cls[modality].expand(x.shape[0], 1, -1)
        return self.dropout(torch.cat([cls, x], dim=1)), torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)

    def _layer(
        self, depth: int, states: Sequence[Tensor], masks: Sequence[Tensor], shared: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Run one layer of every modality over its own and the shared tokens.

        Returns:
            The new states of the modalities, and each one's update of the shared tokens, (B, M, n, D).
        """
        own, updates = [], []
        for m, x, mask in zip(self.sizes, states, masks, strict=True):
            real = torch.cat([mask, mask.new_ones(shared.shape[:2])], dim=1)
            out = self._layers_of(m)[depth](torch.cat([x, shared], dim=1), real)
            own.append(out[:, : x.shape[1]])
            updates.append(out[:, x.shape[1] :])
        return tuple(own), torch.stack(updates, dim=1)

    def _layers_of(self, modality: str) -> nn.ModuleList:
        return cast(nn.ModuleList, self.layers[modality])
