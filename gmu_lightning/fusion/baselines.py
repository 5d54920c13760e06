"""Baselines for the gates: a single modality, fixed rules, gates that see one modality, mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Few, Size
from gmu_lightning.decisions import Task
from gmu_lightning.fusion.base import Fusion
from gmu_lightning.fusion.heads import MaxoutHead, MixtureHead, ScaledLinear, present_softmax
from gmu_lightning.movie import Fused

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}


class _Projected(Fusion):
    """Project every modality to one size: W_m x_m + b_m, (B, ..., M, D).

    Args:
        sizes, dim: as in Fusion.
        bias: whether the projections have b_m.
        head: `head`, `maxout_hidden`, `maxout_pieces` and `maxout_dropout` of Fusion.
    """

    def __init__(self, sizes: Mapping[str, int], dim: Size = 256, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, **head)
        self.hidden = nn.ModuleDict({m: nn.Linear(size, dim, bias=bias) for m, size in self.sizes.items()})

    def projected(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return W_m x_m + b_m for every modality, (B, ..., M, D)."""
        return torch.stack([layer(x) for layer, x in zip(self.hidden.values(), inputs, strict=True)], dim=-2)


class SingleModality(Fusion):
    """One modality: h = tanh(W x + b), or h = x with `hidden=false`. An absent modality gives h = 0.

    Args:
        sizes, dim: as in Fusion.
        hidden: False passes x to the head.
        bias: whether the projection has b.
        head: `head`, `maxout_hidden`, `maxout_pieces` and `maxout_dropout` of Fusion.
    """

    fewest, most = 1, 1

    def __init__(self, sizes: Mapping[str, int], dim: Size = 256, hidden: bool = True, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, **head)
        size = next(iter(self.sizes.values()))
        self.size = dim if hidden else size
        self.hidden = nn.ModuleDict({m: nn.Linear(d, dim, bias=bias) for m, d in self.sizes.items()} if hidden else {})

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return h as the vector and as its only part."""
        h = inputs[0]
        for layer in self.hidden.values():
            h = torch.tanh(layer(h))
        h = torch.where(present[..., 0, :], h, 0.0)
        return Fused(h, h.unsqueeze(-2))


class Mean(_Projected):
    """h = 1/|P| sum over P of tanh(W_m x_m), where P is the set of present modalities: the control for every gate."""

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the mean over P. Its gates are 1/|P| for present modalities and 0 for the others."""
        h = torch.tanh(self.projected(inputs))
        gates = _shares(present, h.dtype).expand_as(h)
        parts = gates * h
        return Fused(parts.sum(dim=-2), parts, gates)


class Concat(Fusion):
    """h = [tanh(W_1 x_1); ...; tanh(W_M x_M)], or [x_1; ...; x_M] with `hidden=false`.

    The block of an absent modality is zero. The arguments are those of `SingleModality`.
    """

    def __init__(self, sizes: Mapping[str, int], dim: Size = 256, hidden: bool = True, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, **head)
        self.hidden = nn.ModuleDict({m: nn.Linear(d, dim, bias=bias) for m, d in self.sizes.items()} if hidden else {})
        self.size = dim * len(self.sizes) if hidden else sum(self.sizes.values())

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the blocks side by side; part m is the vector with all other blocks set to zero."""
        blocks = [torch.tanh(self.hidden[m](x)) if self.hidden else x for m, x in zip(self.sizes, inputs, strict=True)]
        return _side_by_side([torch.where(present[..., i, :], block, 0.0) for i, block in enumerate(blocks)])


class SelfGate(_Projected):
    """h = 1/|P| sum over P of sigma(U_m x_m) * tanh(W_m x_m): the control for the gates that see several modalities.

    It is the gated tanh unit of van den Oord et al. 2016 (arXiv 1606.05328, equation 2), one per modality. No gate depends on
    another modality, so this fusion weighs no modality against another. Its gates are therefore not reported.

    Args:
        sizes, dim, bias, head: as in `Mean`; U_m has a bias where W_m has one.
        join: `mean` over the present modalities, or `concat`, where the block of an absent modality is zero.
        activation: `tanh`, `relu` or `gelu`, in place of the tanh.
        gate: False leaves sigma(U_m x_m) out.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        dim: Size = 256,
        join: Literal["mean", "concat"] = "mean",
        activation: Literal["tanh", "relu", "gelu"] = "tanh",
        gate: bool = True,
        bias: bool = True,
        **head: Any,
    ):
        super().__init__(sizes, dim, bias, **head)
        self.side_by_side, self.activation = join == "concat", ACTIVATIONS[activation]
        self.gate = nn.ModuleDict({m: nn.Linear(size, dim, bias=bias) for m, size in self.sizes.items()} if gate else {})
        self.size = dim * len(self.sizes) if self.side_by_side else dim

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the joined units, with their parts and without gates."""
        h = self.activation(self.projected(inputs))  # (B, ..., M, D)
        if self.gate:
            h = h * torch.sigmoid(torch.stack([layer(x) for layer, x in zip(self.gate.values(), inputs, strict=True)], dim=-2))
        if self.side_by_side:
            return _side_by_side(torch.where(present, h, 0.0).unbind(dim=-2))
        parts = _shares(present, h.dtype) * h
        return Fused(parts.sum(dim=-2), parts)


class Sum(_Projected):
    """h = sum over P of W_m x_m, without tanh (the linear sum of Arevalo et al. 2017, arXiv 1702.01992)."""

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the sum, whose parts are the projections of the present modalities."""
        parts = torch.where(present, self.projected(inputs), 0.0)
        return Fused(parts.sum(dim=-2), parts)


class Max(_Projected):
    """h = elementwise maximum over P of tanh(W_m x_m); not additive."""

    unimodal = False

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the maximum, or zeros for a movie without any modality."""
        h = torch.tanh(self.projected(inputs)).masked_fill(~present, float("-inf")).amax(dim=-2)
        return Fused(torch.where(present.any(dim=-2), h, 0.0))


class Late(_Projected):
    """p_c = mean over P of sigma(v_mc . h_m + b_mc): average the probabilities that each modality predicts.

    For `multiclass`, the softmax over c stands in place of sigma (`MixtureHead`).

    Args:
        sizes, dim, bias: as in `Mean`.
        head: each expert's head. `linear` reads h_m. `maxout` reads x_m itself, as in Arevalo et al. 2017; its layers have
            width `dim` unless `maxout_hidden` is given.
    """

    def __init__(self, sizes: Mapping[str, int], dim: Size = 256, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, bias, **head)
        if self.maxout is not None:
            self.hidden = nn.ModuleDict()
        self.widths = [dim] * len(self.sizes) if self.hidden else list(self.sizes.values())
        self.size = sum(self.widths)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return [h_1; ...; h_M] as the vector, and the weights pi of the mixture as gates, (B, ..., M, 1)."""
        blocks = torch.tanh(self.projected(inputs)).unbind(dim=-2) if self.hidden else inputs
        blocks = [torch.where(present[..., i, :], block, 0.0) for i, block in enumerate(blocks)]
        return Fused(torch.cat(blocks, dim=-1), None, self.weights(inputs, present))

    def weights(self, inputs: Sequence[Tensor], present: Tensor) -> Tensor:
        """Return 1/|P| for the present modalities and 0 for the others, (B, ..., M, 1)."""
        return _shares(present, inputs[0].dtype).expand(*inputs[0].shape[:-1], -1, -1)

    def head(self, genres: int, task: Task = "multilabel") -> nn.Module:
        """Return a mixture of one expert per modality."""
        return MixtureHead([self.expert(width, genres) for width in self.widths], task=task)

    def expert(self, width: int, genres: int) -> nn.Linear | MaxoutHead:
        """Return a new expert, which predicts the genres from one modality of `width` numbers."""
        if self.maxout is None:
            return nn.Linear(width, genres)
        hidden, pieces, dropout = self.maxout
        return MaxoutHead(width, genres, hidden or self.dim, pieces, dropout)


class MixtureOfExperts(Late):
    """p_c = sum over P of pi_mc sigma(v_mc . h_m + b_mc), pi_c = softmax over P of G_c x / sqrt(d), x = [x_1; ...; x_M].

    The mixture of experts of Arevalo et al. 2017 (arXiv 1702.01992). Together with `head=maxout` it is the mixture of the
    published code (github.com/johnarevalo/gmu-mmimdb, model.py, MoEClassifier). The division by sqrt(d), where d is the length
    of x, only changes how fast the gate learns (`ScaledLinear`).

    Args:
        sizes, dim, bias, head: as in `Late`; `bias` also applies to the gate.
        tied: True gives all genres the same weights pi_m, as in the paper's tied baseline.
    """

    def __init__(self, sizes: Mapping[str, int], dim: Size = 256, tied: bool = False, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, bias, **head)
        self.tied = tied
        if tied:
            self.gate = ScaledLinear(sum(self.sizes.values()), len(self.sizes), bias=bias)
        else:  # the head holds G, because it has the number of genres; it reads [x_1; ...; x_M] behind the experts' inputs
            self.bias = bias
            self.size += sum(self.sizes.values())

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the result of `Late`; if each genre has its own weights, append [x_1; ...; x_M] to its vector."""
        fused = super().fuse(inputs, present)
        return fused if self.tied else fused._replace(vector=torch.cat([fused.vector, *inputs], dim=-1))

    def weights(self, inputs: Sequence[Tensor], present: Tensor) -> Tensor:
        """Return the weights pi, (B, ..., M, 1): a softmax over the present modalities, or 1/|P| if the head holds the gate."""
        if not self.tied:
            return super().weights(inputs, present)
        return present_softmax(self.gate(torch.cat(list(inputs), dim=-1)).unsqueeze(-1), present)

    def head(self, genres: int, task: Task = "multilabel") -> nn.Module:
        """Return a mixture of one expert per modality, with a gate per genre unless `tied`."""
        experts = [self.expert(width, genres) for width in self.widths]
        if self.tied:
            return MixtureHead(experts, task=task)
        return MixtureHead(experts, ScaledLinear(sum(self.sizes.values()), len(experts) * genres, bias=self.bias), task)


class LowRank(Fusion):
    """h = sum_r prod_m (F_mr [1; x_m]), rank R (low-rank multimodal fusion, Liu et al. 2018, arXiv 1806.00064).

    The column of F_mr that multiplies the constant 1 starts at 1. Near 0 the product would hold interactions only, without
    any effect of a single modality. An absent modality has factor 1. A movie without any modality has h = 0.

    Args:
        sizes, dim, head: as in `SingleModality`.
        rank: R.
    """

    unimodal = False

    def __init__(self, sizes: Mapping[str, int], dim: Size = 256, rank: Few = 4, **head: Any):
        super().__init__(sizes, dim, **head)
        self.rank = rank
        # The bias of each layer is the column of F that multiplies the constant 1.
        self.factors = nn.ModuleDict({m: nn.Linear(size, rank * dim) for m, size in self.sizes.items()})
        for layer in self.factors.values():
            nn.init.ones_(cast(nn.Linear, layer).bias)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the sum over ranks of the products over modalities; it has no parts."""
        factors = torch.stack([layer(x) for layer, x in zip(self.factors.values(), inputs, strict=True)], dim=-2)
        product = torch.where(present, factors, 1.0).prod(dim=-2)  # (B, ..., R D)
        h = product.unflatten(-1, (self.rank, self.dim)).sum(dim=-2)
        return Fused(torch.where(present.any(dim=-2), h, 0.0))


def _shares(present: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1/|P| for present modalities and 0 for the others, (B, ..., M, 1)."""
    return present.to(dtype) / present.sum(dim=-2, keepdim=True).clamp_min(1)


def _side_by_side(blocks: Sequence[Tensor]) -> Fused:
    """Join blocks (B, ..., D_m) to a vector (B, ..., sum of D_m); part m is the vector with all other blocks set to zero."""
    vector = torch.cat(list(blocks), dim=-1)
    widths = [block.shape[-1] for block in blocks]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    padded = [
        nn.functional.pad(block, (start, vector.shape[-1] - start - width))
        for block, start, width in zip(blocks, starts, widths, strict=True)
    ]
    return Fused(vector, torch.stack(padded, dim=-2))
