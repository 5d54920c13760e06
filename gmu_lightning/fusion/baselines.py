"""What a gate has to beat: one modality, plain combinations, mixtures of experts, low-rank products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.fusion.base import Fusion
from gmu_lightning.fusion.heads import MixtureHead
from gmu_lightning.movie import Fused


class _Projected(Fusion):
    """h_m = tanh(W_m x_m), (B, ..., M, D)."""

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, bias: bool = False):
        super().__init__(sizes, dim)
        self.hidden = nn.ModuleDict({m: nn.Linear(size, dim, bias=bias) for m, size in self.sizes.items()})

    def projected(self, inputs: Sequence[Tensor]) -> Tensor:
        """W_m x_m for every modality, (B, ..., M, D)."""
        return torch.stack([layer(x) for layer, x in zip(self.hidden.values(), inputs, strict=True)], dim=-2)


class Alone(Fusion):
    """One modality: h = tanh(W x), or h = x with `hidden=false`. An absent one leaves the bias alone. `head`: as every Fusion."""

    fewest, most = 1, 1

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, hidden: bool = True, bias: bool = False, **head: Any):
        super().__init__(sizes, dim, **head)
        size = next(iter(self.sizes.values()))
        self.size = dim if hidden else size
        self.hidden = nn.ModuleDict({m: nn.Linear(d, dim, bias=bias) for m, d in self.sizes.items()} if hidden else {})

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """A single part, which is the vector."""
        h = inputs[0]
        for layer in self.hidden.values():
            h = torch.tanh(layer(h))
        h = torch.where(present[..., 0, :], h, 0.0)
        return Fused(h, h.unsqueeze(-2))


class Mean(_Projected):
    """h = 1/|P| sum over P of tanh(W_m x_m): the control that every gate must beat."""

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Gates are 1/|P| and 0."""
        h = torch.tanh(self.projected(inputs))
        gates = _shares(present, h.dtype).expand_as(h)
        parts = gates * h
        return Fused(parts.sum(dim=-2), parts, gates)


class Concat(Fusion):
    """h = [tanh(W_1 x_1); ...; tanh(W_M x_M)], or [x_1; ...; x_M] with `hidden=false`. The block of an absent one is zero.

    `head`: as every Fusion.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, hidden: bool = True, bias: bool = False, **head: Any):
        super().__init__(sizes, dim, **head)
        self.hidden = nn.ModuleDict({m: nn.Linear(d, dim, bias=bias) for m, d in self.sizes.items()} if hidden else {})
        self.widths = [dim] * len(self.sizes) if hidden else list(self.sizes.values())
        self.size = sum(self.widths)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Part m is the vector with every block but m at zero."""
        blocks = [torch.tanh(self.hidden[m](x)) if self.hidden else x for m, x in zip(self.sizes, inputs, strict=True)]
        blocks = [torch.where(present[..., i, :], block, 0.0) for i, block in enumerate(blocks)]
        starts = [sum(self.widths[:i]) for i in range(len(blocks))]
        padded = [
            nn.functional.pad(block, (start, self.size - start - width))
            for block, start, width in zip(blocks, starts, self.widths, strict=True)
        ]
        return Fused(torch.cat(blocks, dim=-1), torch.stack(padded, dim=-2))


class Sum(_Projected):
    """h = sum over P of W_m x_m, without tanh (the linear sum of Arevalo et al. 2017, arXiv 1702.01992)."""

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Parts are the projections."""
        parts = torch.where(present, self.projected(inputs), 0.0)
        return Fused(parts.sum(dim=-2), parts)


class Max(_Projected):
    """h = elementwise maximum over P of tanh(W_m x_m); not additive."""

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Zero where nothing is present."""
        h = torch.tanh(self.projected(inputs)).masked_fill(~present, float("-inf")).amax(dim=-2)
        return Fused(torch.where(present.any(dim=-2), h, 0.0))


class Late(_Projected):
    """p_c = mean over P of sigma(v_mc . h_m + b_mc): every modality predicts, the probabilities are averaged."""

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, bias: bool = False):
        super().__init__(sizes, dim, bias)
        self.size = dim * len(self.sizes)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Vector [h_1; ...; h_M], and as gates the weights pi of the mixture, (B, ..., M, 1)."""
        h = torch.where(present, torch.tanh(self.projected(inputs)), 0.0)
        return Fused(h.flatten(-2), None, self.weights(inputs, present))

    def weights(self, inputs: Sequence[Tensor], present: Tensor) -> Tensor:
        """1/|P| and 0, (B, ..., M, 1)."""
        return _shares(present, inputs[0].dtype).expand(*inputs[0].shape[:-1], -1, -1)

    def head(self, genres: int) -> nn.Module:
        """A mixture of one expert per modality."""
        return MixtureHead(len(self.sizes), self.dim, genres)


class MixtureOfExperts(Late):
    """p_c = sum over P of pi_m sigma(v_mc . h_m + b_mc), pi = softmax over P of G [x_1; ...; x_M] (Arevalo et al. 2017)."""

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, bias: bool = False):
        super().__init__(sizes, dim, bias)
        self.gate = nn.Linear(sum(self.sizes.values()), len(self.sizes), bias=bias)

    def weights(self, inputs: Sequence[Tensor], present: Tensor) -> Tensor:
        """Learned from all inputs; softmax over the present ones, 0 elsewhere."""
        some = present.any(dim=-2, keepdim=True)
        logits = self.gate(torch.cat(list(inputs), dim=-1)).unsqueeze(-1)  # (B, ..., M, 1)
        pi = torch.softmax(logits.masked_fill(~present & some, float("-inf")), dim=-2)
        return torch.where(some, pi, 0.0)


class LowRank(Fusion):
    """h = sum_r prod_m (F_mr [1; x_m]), rank R (low-rank multimodal fusion, Liu et al. 2018, arXiv 1806.00064).

    An absent modality's factor is ones. Where nothing is present h = 0.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, rank: int = 4):
        super().__init__(sizes, dim)
        self.rank = rank
        # The bias of each layer is the column of F that multiplies the constant 1.
        self.factors = nn.ModuleDict({m: nn.Linear(size, rank * dim) for m, size in self.sizes.items()})

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """A product over modalities: not additive."""
        factors = torch.stack([layer(x) for layer, x in zip(self.factors.values(), inputs, strict=True)], dim=-2)
        product = torch.where(present, factors, 1.0).prod(dim=-2)  # (B, ..., R D)
        h = product.unflatten(-1, (self.rank, self.dim)).sum(dim=-2)
        return Fused(torch.where(present.any(dim=-2), h, 0.0))


def _shares(present: Tensor, dtype: torch.dtype) -> Tensor:
    """1/|P| where present, 0 elsewhere, (B, ..., M, 1)."""
    return present.to(dtype) / present.sum(dim=-2, keepdim=True).clamp_min(1)
