"""Attention bottlenecks: modalities that tell each other things through a few tokens only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.fusion.attention import TransformerLayer, sinusoids
from gmu_lightning.fusion.base import Fusion, everyone, tokens
from gmu_lightning.movie import Features, Fused, UserError


class Bottleneck(Fusion):
    """h = 1/|P| sum over P of CLS_m, one transformer per modality, joined by B tokens (Nagrani et al. 2021, arXiv 2107.00135).

    From layer `fusion_layer` on (counted from 0), [z_m; b_m] = Layer_m [z_m; b] and b = 1/|P| sum over P of b_m. The paper
    averages the logits of one classifier over modalities, which is that classifier over the averaged CLS: contributions are
    exact. A modality without a sequence is a single token, its vector. Feed-forward layers use GELU, as in the published code
    (github.com/google-research/scenic, projects/mbt/model.py). That code learns its positions and has one LayerNorm behind the
    last layer. Here positions are sinusoids, and each modality has a LayerNorm of its own.

    Args:
        sizes, dim: as every Fusion.
        sequences: which of the modalities have one.
        bottlenecks: B.
        heads: of every attention; must divide `dim`.
        head: as in Fusion.

    Raises:
        UserError: there is no layer `fusion_layer`, or no bottleneck.
    """

    needs = "sequence"

    def __init__(
        self,
        sizes: Mapping[str, int],
        sequences: Sequence[str],
        dim: int = 256,
        layers: int = 4,
        fusion_layer: int = 2,
        bottlenecks: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        **head: Any,
    ):
        super().__init__(sizes, dim, **head)
        if not 0 <= fusion_layer < layers:
            raise UserError(
                f"fusion.fusion_layer={fusion_layer} of fusion.layers={layers}: give one from 0 to the number of layers - 1"
            )
        if bottlenecks < 1:
            raise UserError(f"fusion.bottlenecks={bottlenecks}: give 1 or more")
        self.sequences, self.fusion_layer = tuple(sequences), fusion_layer
        self.project = nn.ModuleDict({m: nn.Linear(d, dim) for m, d in self.sizes.items()})
        self.layers = nn.ModuleDict(
            {m: nn.ModuleList(TransformerLayer(dim, heads, dropout, nn.GELU) for _ in range(layers)) for m in self.sizes}
        )
        self.norms = nn.ModuleDict({m: nn.LayerNorm(dim) for m in self.sizes})
        self.cls = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(dim)) for m in self.sizes})
        self.bottlenecks = nn.Parameter(0.02 * torch.randn(bottlenecks, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Features], present: Tensor | None = None) -> Fused:  # type: ignore[override]
        """Features by modality and present (B, M) -> parts CLS_m / |P|."""
        there = everyone(inputs, present)
        shares = (there / there.sum(dim=1, keepdim=True).clamp_min(1)).to(self.bottlenecks.dtype)  # (B, M)
        states, masks = zip(*(self._begun(m, inputs[m], there[:, i]) for i, m in enumerate(self.sizes)), strict=True)
        bottlenecks = self.bottlenecks.expand(len(there), -1, -1)  # (B, n, D)
        for depth in range(len(self._layers_of(next(iter(self.sizes))))):
            shared = bottlenecks if depth >= self.fusion_layer else bottlenecks[:, :0]
            states, told = self._layer(depth, states, masks, shared)
            if depth >= self.fusion_layer:
                bottlenecks = torch.einsum("bm,bmnd->bnd", shares, told)
        cls = torch.stack([self.norms[m](x[:, 0]) for m, x in zip(self.sizes, states, strict=True)], dim=1)  # (B, M, D)
        parts = shares[..., None] * cls
        return Fused(parts.sum(dim=1), parts)

    def _begun(self, modality: str, features: Features, there: Tensor) -> tuple[Tensor, Tensor]:
        """[CLS_m; sqrt(D) W_m x_m + positions] and which of it is real, CLS always: (B, 1 + T, D), (B, 1 + T)."""
        x, mask = tokens(features if modality in self.sequences else Features(features.vector), there)
        x = self.project[modality](x)
        if modality in self.sequences:
            x = math.sqrt(self.dim) * x + sinusoids(x)
        cls = self.cls[modality].expand(len(x), 1, -1)
        return self.dropout(torch.cat([cls, x], dim=1)), torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)

    def _layer(
        self, depth: int, states: Sequence[Tensor], masks: Sequence[Tensor], shared: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Every modality by itself, beside the shared tokens: the new states, and what each says to all, (B, M, n, D)."""
        own, told = [], []
        for m, x, mask in zip(self.sizes, states, masks, strict=True):
            real = torch.cat([mask, mask.new_ones(shared.shape[:2])], dim=1)
            out = self._layers_of(m)[depth](torch.cat([x, shared], dim=1), real)
            own.append(out[:, : x.shape[1]])
            told.append(out[:, x.shape[1] :])
        return tuple(own), torch.stack(told, dim=1)

    def _layers_of(self, modality: str) -> nn.ModuleList:
        return cast(nn.ModuleList, self.layers[modality])
