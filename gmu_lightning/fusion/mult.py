"""MulT-GMU: every modality reads every other one, then gates weigh what each has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gmu_lightning.fusion.attention import Transformer
from gmu_lightning.fusion.base import Fusion, everyone, tokens
from gmu_lightning.fusion.gmu import GMU
from gmu_lightning.movie import MODALITIES, Features, Fused, UserError


class MulTGMU(Fusion):
    """h = GMU over m of r_m, r_m = last step of S_m [C_mk (x_m, x_k) for every other sequence k].

    A sequence x_m is projected to D. The crossmodal transformer C_mk reads x_k from x_m (Tsai et al. 2019, arXiv 1906.00295).
    Its results for all k, side by side, pass a transformer S_m that reads itself. A modality without a sequence enters the GMU as
    W_m x_m + b_m, of size D. A lone sequence has nothing to read but itself: S_m (x_m). An absent modality is no key to
    anyone.
    Rodriguez-Bribiesca et al. 2021, "Multimodal Weighted Fusion of Transformers for Movie Genre Classification", MAI workshop at
    NAACL. Their residual block between GMU and classifier is left out, so that contributions are exact.

    Args:
        sizes, dim: as every Fusion; published at 768.
        sequences: which of the modalities have one.
        variant, gate_input, bias: of `GMU`.
        layers: of every C_mk; S_m has as many, and at least 3.
        heads: of every attention; must divide `dim`.
        dropout: of attention, residuals and what enters a transformer.
        attention_dropout: {modality k: that of the attention of every C_mk}; `dropout` for a modality that it lacks.
        embedding_dropout: of what enters a transformer; None takes `dropout`.

    Raises:
        UserError: `layers` is below 1, a dropout is no probability below 1, or `attention_dropout` names no modality.
    """

    needs = "sequence"

    def __init__(
        self,
        sizes: Mapping[str, int],
        sequences: Sequence[str],
        dim: int = 256,
        variant: str = "original",
        gate_input: str = "self",
        bias: bool = True,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        attention_dropout: Mapping[str, float] | None = None,
        embedding_dropout: float | None = None,
    ):
        super().__init__(sizes, dim)
        if layers < 1:
            raise UserError(f"fusion.layers={layers}: give 1 or more")
        sources = dict(attention_dropout or {})
        _check_dropouts(dropout, sources, embedding_dropout)
        self.sequences = tuple(m for m in self.sizes if m in sequences)
        vectors = [m for m in self.sizes if m not in self.sequences]
        projected = [m for m in self.sequences if self.sizes[m] != dim]
        self.project = nn.ModuleDict({m: nn.Linear(self.sizes[m], dim, bias=m in vectors) for m in (*projected, *vectors)})

        def crossmodal(source: str) -> Transformer:
            return Transformer(dim, layers, heads, dropout, sources.get(source), embedding_dropout)

        self.crossmodal = nn.ModuleDict({m: nn.ModuleDict({k: crossmodal(k) for k in self._others(m)}) for m in self.sequences})
        width = dim * max(len(self.sequences) - 1, 1)
        memory = {m: Transformer(width, max(layers, 3), heads, dropout, None, embedding_dropout) for m in self.sequences}
        self.memory = nn.ModuleDict(memory)
        read = {m: width if m in self.sequences else dim for m in self.sizes}
        self.gmu = GMU(variant, read, dim, gate_input, bias)
        self.open_threshold = self.gmu.open_threshold

    def forward(self, inputs: Mapping[str, Features], present: Tensor | None = None) -> Fused:  # type: ignore[override]
        """Features by modality and present (B, M) -> gates and parts of the GMU."""
        there = everyone(inputs, present)
        vectors = {
            m: self.project[m](torch.where(there[:, i, None], inputs[m].vector, 0.0))
            for i, m in enumerate(self.sizes)
            if m not in self.sequences
        }
        steps = {m: tokens(inputs[m], there[:, i]) for i, m in enumerate(self.sizes) if m in self.sequences}
        projected = {m: self.project[m](x) if m in self.project else x for m, (x, _) in steps.items()}  # (B, T_m, D)
        masks = {m: mask for m, (_, mask) in steps.items()}  # (B, T_m)
        for m in self.sequences:
            read = [self.crossmodal[m][k](projected[m], masks[k], projected[k]) for k in self._others(m)]  # type: ignore[index]
            joined = torch.cat(read, dim=-1) if read else projected[m]  # (B, T_m, width)
            vectors[m] = last(self.memory[m](joined, masks[m]), masks[m])
        return self.gmu({m: vectors[m] for m in self.sizes}, there)

    def _others(self, modality: str) -> list[str]:
        return [m for m in self.sequences if m != modality]


def _check_dropouts(dropout: float, sources: Mapping[str, float], embedding: float | None) -> None:
    rates = {"dropout": dropout, "embedding_dropout": embedding or 0.0}
    for name, rate in {**rates, **{f"attention_dropout.{m}": rate for m, rate in sources.items()}}.items():
        if not 0 <= rate < 1:
            raise UserError(f"fusion.{name}={rate}: give a probability from 0 up to, but not including, 1")
    for m in sources:
        if m not in MODALITIES:
            raise UserError(f"fusion.attention_dropout names {m}, which is no modality: choose among {', '.join(MODALITIES)}")


def last(sequence: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D), (B, T) -> the last real step, (B, D)."""
    place = (torch.arange(mask.shape[1], device=mask.device) * mask).amax(dim=1)
    return sequence[torch.arange(len(place), device=mask.device), place]
