"""MulT-GMU: every sequence attends to every other one, then gates weigh the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Few, Positive, Probability, Size
from gmu_lightning.fusion.base import Fusion, everyone, tokens
from gmu_lightning.fusion.gmu import GMU
from gmu_lightning.movie import Features, Fused
from gmu_lightning.nn.transformer import Transformer

Dropouts = Annotated[
    Mapping[Literal["text", "image", "video", "audio", "metadata"], Probability],
    "probabilities by modality, such as {video: 0.0, audio: 0.0}",
]


class MulTGMU(Fusion):
    """h = GMU over m of r_m, r_m = last step of S_m [C_mk (x_m, x_k) for every other sequence k].

    A sequence x_m is projected to D. In the crossmodal transformer C_mk, queries from x_m attend to x_k (Tsai et al. 2019,
    arXiv 1906.00295). Its results for all k, side by side, pass a self-attention transformer S_m. A modality without a sequence
    enters the GMU as W_m x_m + b_m, of size D. A lone sequence passes S_m alone: S_m (x_m). Attention masks absent modalities.
    Rodriguez-Bribiesca et al. 2021, "Multimodal Weighted Fusion of Transformers for Movie Genre Classification", MAI workshop at
    NAACL. Their residual block between GMU and classifier is left out, so that contributions are exact.

    Args:
        sizes, dim: as in Fusion; the paper uses `dim` 768.
        sequences: the modalities that have a sequence.
        variant, gate_input, bias: as in `GMU`.
        layers: number of layers of every C_mk; S_m has the same number, and at least 3.
        heads: number of attention heads; must divide `dim`.
        dropout: probability in attention, residuals and embeddings.
        attention_dropout: {modality k: probability in the attention of every C_mk}; other modalities use `dropout`.
        embedding_dropout: probability on the input of every transformer; None takes `dropout`.
        lr_scale: learning rate of the fusion's weights, as a multiple of `optimizer.lr`.

    Raises:
        UserError: `heads` does not divide the width of a transformer.
    """

    needs = "sequence"

    def __init__(
        self,
        sizes: Mapping[str, int],
        sequences: Sequence[str],
        dim: Size = 256,
        variant: Literal["original", "hier", "softmax"] = "original",
        gate_input: Literal["self", "concat"] = "self",
        bias: bool = True,
        layers: Few = 2,
        heads: Few = 4,
        dropout: Probability = 0.1,
        attention_dropout: Dropouts | None = None,
        embedding_dropout: Probability | None = None,
        lr_scale: Positive = 0.3,
    ):
        super().__init__(sizes, dim)
        self.lr_scale = lr_scale
        sources = {str(m): rate for m, rate in (attention_dropout or {}).items()}
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
        """Fuse {modality: Features} under `present` (B, M) bool; gates and parts are those of the GMU."""
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


def last(sequence: Tensor, mask: Tensor) -> Tensor:
    """Return the last real step, (B, D), of a sequence (B, T, D) with a mask (B, T) bool; step 0 of a row without real steps."""
    place = (torch.arange(mask.shape[1], device=mask.device) * mask).amax(dim=1)
    return sequence[torch.arange(place.shape[0], device=mask.device), place]
