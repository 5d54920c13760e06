"""The controls and baselines that a gate has to beat: one modality, fixed rules, gates that see one modality, mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.fusion.base import Fusion
from gmu_lightning.fusion.heads import MaxoutHead, MixtureHead, ScaledLinear, present_softmax
from gmu_lightning.movie import Fused, UserError

JOINS = ("mean", "concat")
ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}


class _Projected(Fusion):
    """Project every modality to one size: W_m x_m + b_m, (B, ..., M, D).

    Args:
        sizes, dim: as in Fusion.
        bias: whether the projections have b_m.
        head: `head`, `maxout_hidden` and `maxout_pieces` of Fusion.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, **head)
        self.hidden = nn.ModuleDict({m: nn.Linear(size, dim, bias=bias) for m, size in self.sizes.items()})

    def projected(self, inputs: Sequence[Tensor]) -> Tensor:
        """W_m x_m for every modality, (B, ..., M, D)."""
        return torch.stack([layer(x) for layer, x in zip(self.hidden.values(), inputs, strict=True)], dim=-2)


class Alone(Fusion):
    """One modality: h = tanh(W x), or h = x with `hidden=false`. An absent one leaves the bias alone. `head`: as every Fusion."""

    fewest, most = 1, 1

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, hidden: bool = True, bias: bool = True, **head: Any):
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

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, hidden: bool = True, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, **head)
        self.hidden = nn.ModuleDict({m: nn.Linear(d, dim, bias=bias) for m, d in self.sizes.items()} if hidden else {})
        self.size = dim * len(self.sizes) if hidden else sum(self.sizes.values())

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Part m is the vector with every block but m at zero."""
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

    Raises:
        UserError: `join` or `activation` is unknown.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        dim: int = 256,
        join: str = "mean",
        activation: str = "tanh",
        gate: bool = True,
        bias: bool = True,
        **head: Any,
    ):
        super().__init__(sizes, dim, bias, **head)
        if join not in JOINS:
            raise UserError(f"fusion.join={join} does not exist: choose one of {', '.join(JOINS)}")
        if activation not in ACTIVATIONS:
            raise UserError(f"fusion.activation={activation} does not exist: choose one of {', '.join(ACTIVATIONS)}")
        self.join, self.activation = join, ACTIVATIONS[activation]
        self.gate = nn.ModuleDict({m: nn.Linear(size, dim, bias=bias) for m, size in self.sizes.items()} if gate else {})
        self.size = dim * len(self.sizes) if join == "concat" else dim

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the units joined, without gates."""
        h = self.activation(self.projected(inputs))  # (B, ..., M, D)
        if self.gate:
            h = h * torch.sigmoid(torch.stack([layer(x) for layer, x in zip(self.gate.values(), inputs, strict=True)], dim=-2))
        if self.join == "concat":
            return _side_by_side(torch.where(present, h, 0.0).unbind(dim=-2))
        parts = _shares(present, h.dtype) * h
        return Fused(parts.sum(dim=-2), parts)


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
    """p_c = mean over P of sigma(v_mc . h_m + b_mc): average the probabilities that each modality predicts.

    Args:
        sizes, dim, bias: as in `Mean`.
        head: of each expert. `linear` reads h_m; `maxout` reads x_m itself, as in Arevalo et al. 2017, and has `dim` numbers in
            its layers unless `maxout_hidden` is given.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, bias: bool = True, **head: Any):
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

    def head(self, genres: int) -> nn.Module:
        """Return a mixture of one expert per modality."""
        return MixtureHead([self.expert(width, genres) for width in self.widths])

    def expert(self, width: int, genres: int) -> nn.Linear | MaxoutHead:
        """Return what predicts the genres from one modality of `width` numbers."""
        if self.maxout is None:
            return nn.Linear(width, genres)
        hidden, pieces, dropout = self.maxout
        return MaxoutHead(width, genres, hidden or self.dim, pieces, dropout)


class MixtureOfExperts(Late):
    """p_c = sum over P of pi_mc sigma(v_mc . h_m + b_mc), pi_c = softmax over P of G_c x / sqrt(d), x = [x_1; ...; x_M].

    The mixture of experts of Arevalo et al. 2017 (arXiv 1702.01992). Together with `head=maxout` it is the mixture of the
    published code (github.com/johnarevalo/gmu-mmimdb, model.py, MoEClassifier). The division by sqrt(d), d the length of x, only
    changes how fast the gate learns (`ScaledLinear`).

    Args:
        sizes, dim, bias, head: as in `Late`; `bias` is also the gate's.
        tied: True gives all genres the same weights pi_m, as in the paper's tied baseline.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, tied: bool = False, bias: bool = True, **head: Any):
        super().__init__(sizes, dim, bias, **head)
        self.tied = tied
        if tied:
            self.gate = ScaledLinear(sum(self.sizes.values()), len(self.sizes), bias=bias)
        else:  # the head, which knows the genres, holds G and reads [x_1; ...; x_M] behind the experts' inputs
            self.bias = bias
            self.size += sum(self.sizes.values())

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return what `Late` returns, followed by [x_1; ...; x_M] where each genre has its own weights."""
        fused = super().fuse(inputs, present)
        return fused if self.tied else fused._replace(vector=torch.cat([fused.vector, *inputs], dim=-1))

    def weights(self, inputs: Sequence[Tensor], present: Tensor) -> Tensor:
        """Return a softmax over the present modalities, 0 elsewhere, (B, ..., M, 1); equal shares where the head weighs."""
        if not self.tied:
            return super().weights(inputs, present)
        return present_softmax(self.gate(torch.cat(list(inputs), dim=-1)).unsqueeze(-1), present)

    def head(self, genres: int) -> nn.Module:
        """Return a mixture of one expert per modality, with a gate per genre unless `tied`."""
        experts = [self.expert(width, genres) for width in self.widths]
        if self.tied:
            return MixtureHead(experts)
        return MixtureHead(experts, ScaledLinear(sum(self.sizes.values()), len(experts) * genres, bias=self.bias))


class LowRank(Fusion):
    """h = sum_r prod_m (F_mr [1; x_m]), rank R (low-rank multimodal fusion, Liu et al. 2018, arXiv 1806.00064).

    The column of F_mr that multiplies the constant 1 starts at 1. Near 0 the product would hold interactions only, and no
    modality could be read by itself. An absent modality's factor is ones. Where no modality is present h = 0.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int = 256, rank: int = 4, **head: Any):
        super().__init__(sizes, dim, **head)
        self.rank = rank
        # The bias of each layer is the column of F that multiplies the constant 1.
        self.factors = nn.ModuleDict({m: nn.Linear(size, rank * dim) for m, size in self.sizes.items()})
        for layer in self.factors.values():
            nn.init.ones_(cast(nn.Linear, layer).bias)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """A product over modalities: not additive."""
        factors = torch.stack([layer(x) for layer, x in zip(self.factors.values(), inputs, strict=True)], dim=-2)
        product = torch.where(present, factors, 1.0).prod(dim=-2)  # (B, ..., R D)
        h = product.unflatten(-1, (self.rank, self.dim)).sum(dim=-2)
        return Fused(torch.where(present.any(dim=-2), h, 0.0))


def _shares(present: Tensor, dtype: torch.dtype) -> Tensor:
    """1/|P| where present, 0 elsewhere, (B, ..., M, 1)."""
    return present.to(dtype) / present.sum(dim=-2, keepdim=True).clamp_min(1)


def _side_by_side(blocks: Sequence[Tensor]) -> Fused:
    """Join blocks (B, ..., D_m) to a vector (B, ..., sum of D_m); part m is the vector with every block but m at zero."""
    vector = torch.cat(list(blocks), dim=-1)
    widths = [block.shape[-1] for block in blocks]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    padded = [
        nn.functional.pad(block, (start, vector.shape[-1] - start - width))
        for block, start, width in zip(blocks, starts, widths, strict=True)
    ]
    return Fused(vector, torch.stack(padded, dim=-2))
