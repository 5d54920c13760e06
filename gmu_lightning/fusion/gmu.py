"""Gated Multimodal Units: one family, three gates (Arevalo et al. 2017, arXiv 1702.01992, and its published variants)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Size
from gmu_lightning.fusion.base import Fusion
from gmu_lightning.fusion.heads import present_softmax
from gmu_lightning.movie import Fused, UserError

VARIANTS = ("original", "hier", "softmax")


class GMU(Fusion):
    """h = sum_m z_m * tanh(W_m x_m); the variants differ only in the gates z_m.

    Args:
        variant: the equation of z_m, with x = [x_1; ...; x_M].
            `original`: z_1 = sigma(U x), z_2 = 1 - z_1 for two modalities, and a lone one of two gets gate 1;
            z_m = sigma(U_m x) for more.
            `hier`: s_m = sigma(U_m x), s_M = 1; z_m = s_m prod_(j<m) (1 - s_j); the last present modality takes the rest.
            `softmax`: z = softmax over m of U t_m, t_m = T_m x_m (x_m itself where d_m = D).
        sizes, dim: as in Fusion.
        gate_input: `self`, or for `softmax` also `concat`: U_m x instead of U t_m.
        bias: whether hidden, gate and transform layers have a bias. The paper's unit has none; `conf/fusion` sets True.
        head: `head`, `maxout_hidden`, `maxout_pieces` and `maxout_dropout` of Fusion.

    Raises:
        UserError: the variant is unknown, or `gate_input` is `concat` for another variant than `softmax`.

    `state_dict` holds `hidden.<m>.weight` (D, d_m), `gate.weight` (the blocks U_1, ... stacked over rows in modality order) and,
    for softmax, `transform.<m>.weight` (D, d_m) where d_m is not D.
    """

    def __init__(
        self,
        variant: Literal["original", "hier", "softmax"],
        sizes: Mapping[str, int],
        dim: Size = 256,
        gate_input: Literal["self", "concat"] = "self",
        bias: bool = False,
        **head: Any,
    ):
        super().__init__(sizes, dim, **head)
        if variant not in VARIANTS:
            raise UserError(f"GMU variant {variant} does not exist: choose one of {', '.join(VARIANTS)}")
        if gate_input == "concat" and variant != "softmax":
            raise UserError(
                f"fusion.gate_input=concat is for gmu_softmax: the {variant} gate sees all modalities anyway, leave it at self"
            )
        self.variant, self.gate_input = variant, gate_input
        count, total = len(self.sizes), sum(self.sizes.values())
        self.tied = variant == "original" and count == 2
        self.open_threshold = 0.5 if variant == "original" else 1 / count
        self.hidden = nn.ModuleDict({m: nn.Linear(size, dim, bias=bias) for m, size in self.sizes.items()})
        self.own = variant == "softmax" and gate_input == "self"  # each gate's logits read one modality
        if self.own:
            self.transform = nn.ModuleDict({m: nn.Linear(d, dim, bias=bias) for m, d in self.sizes.items() if d != dim})
        blocks = {"original": 1 if self.tied else count, "hier": count - 1, "softmax": 1 if self.own else count}[variant]
        self.gate = nn.Linear(dim if self.own else total, blocks * dim, bias=bias)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the gated sum, its parts and the gates (B, ..., M, D), which are 0 for absent modalities."""
        hidden = torch.stack([torch.tanh(layer(x)) for layer, x in zip(self.hidden.values(), inputs, strict=True)], dim=-2)
        gates = self._gates(self._logits(inputs), present)  # (B, ..., M, D)
        parts = gates * hidden
        return Fused(parts.sum(dim=-2), parts, gates)

    def separate(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return, for each modality, h_m and its term in the logits of the gates, (B, ..., (1 + blocks) D).

        Two modalities have one block, the logit of z_1, in every variant: the softmax of two is the sigmoid of their difference.
        """
        hidden = [torch.tanh(layer(x)) for layer, x in zip(self.hidden.values(), inputs, strict=True)]
        terms = self._terms(inputs)
        if len(inputs) == 2 and self.variant == "softmax":
            terms = [term[..., :1, :] - term[..., 1:, :] for term in terms]
        return [torch.cat([h, term.flatten(-2)], dim=-1) for h, term in zip(hidden, terms, strict=True)]

    def join(self, separate: Sequence[Tensor], present: Tensor) -> Fused:
        """Return the gated sum alone, without parts and gates, of what `separate` returned."""
        hidden = [one[..., : self.dim] for one in separate]
        logits = reduce(torch.add, (one[..., self.dim :] for one in separate))
        if len(hidden) == 2 and bool(present.all()):
            return Fused(torch.lerp(hidden[1], hidden[0], logits.sigmoid_()))
        if len(hidden) == 2:
            z = torch.where(present.all(dim=-2), torch.sigmoid(logits), present[..., 0, :].to(logits.dtype))
            return Fused(torch.where(present.any(dim=-2), torch.lerp(hidden[1], hidden[0], z), 0.0))
        gates = self._gates(logits.unflatten(-1, (-1, self.dim)), present).unbind(dim=-2)
        return Fused(reduce(torch.add, map(torch.mul, gates, hidden)))

    def _gates(self, logits: Tensor, present: Tensor) -> Tensor:
        """Return z (..., M, D) of the logits (..., blocks, D)."""
        return {"original": self._original, "hier": self._hier, "softmax": present_softmax}[self.variant](logits, present)

    def _original(self, logits: Tensor, present: Tensor) -> Tensor:
        z = torch.sigmoid(logits)  # (B, ..., 1 or M, D)
        if not self.tied:
            return torch.where(present, z, 0.0)
        both = present.all(dim=-2, keepdim=True)
        return torch.where(both, torch.cat([z, 1 - z], dim=-2), present.to(z.dtype))  # a lone modality gets gate 1

    def _hier(self, logits: Tensor, present: Tensor) -> Tensor:
        share = torch.sigmoid(logits)  # (B, ..., M - 1, D)
        share = torch.cat([share, torch.ones_like(share[..., :1, :])], dim=-2)
        last = present & (present.flip(-2).cumsum(-2).flip(-2) == 1)  # the last present modality takes the rest
        share = torch.where(last, 1.0, torch.where(present, share, 0.0))
        left, gates = torch.ones_like(share[..., 0, :]), []
        for s in share.unbind(dim=-2):
            gates.append(s * left)
            left = left * (1 - s)
        return torch.stack(gates, dim=-2)

    def _logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits of the gates: U_m [x_1; ...; x_M] for all blocks by one product, or U t_m, (B, ..., blocks, D)."""
        if self.own:
            return self.gate(torch.stack(self._transformed(inputs), dim=-2))
        return self.gate(torch.cat(list(inputs), dim=-1)).unflatten(-1, (-1, self.dim))

    def _terms(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the terms of the gates' logits that depend on one modality each, (B, ..., blocks, D); they sum to the logits."""
        if self.own:
            own = [self.gate(t) for t in self._transformed(inputs)]
            return [nn.functional.pad(z.unsqueeze(-2), (0, 0, m, len(own) - m - 1)) for m, z in enumerate(own)]
        weights = self.gate.weight.split(list(self.sizes.values()), dim=1)
        first = [self.gate.bias, *[None] * (len(inputs) - 1)]
        terms = [nn.functional.linear(x, w, b) for x, w, b in zip(inputs, weights, first, strict=True)]
        return [term.unflatten(-1, (-1, self.dim)) for term in terms]

    def _transformed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [self.transform[m](x) if m in self.transform else x for m, x in zip(self.sizes, inputs, strict=True)]
