"""What turns what was fused into logits: linear and so exactly split, or not."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.encoders.normalise import Batch
from gmu_lightning.movie import Fused, UserError


class LinearHead(nn.Linear):
    """logit_c = b_c + w_c . h, so every logit splits exactly into the bias and one contribution per modality."""

    def forward(self, fused: Fused) -> Tensor:  # type: ignore[override]
        return super().forward(fused.vector)

    def contributions(self, fused: Fused) -> Tensor | None:
        """w_c . part_m, (B, M, C), in float64 where the device has it; None where the fusion is not additive."""
        if fused.parts is None:
            return None
        wide = torch.float32 if fused.parts.device.type == "mps" else torch.float64
        with torch.autocast(fused.parts.device.type, enabled=False):
            return fused.parts.to(wide) @ self.weight.to(wide).T


class MaxoutHead(nn.Module):
    """logits = V BN(maxout BN(maxout BN(h))) + b.

    Maxout is the largest of k linear pieces (Goodfellow et al. 2013, arXiv 1302.4389). The classifier of Arevalo et al. 2017
    (github.com/johnarevalo/gmu-mmimdb), with k = 2. Not linear in h: no contributions.

    Raises:
        UserError: `hidden` or `pieces` is below 1.
    """

    def __init__(self, size: int, genres: int, hidden: int, pieces: int = 2):
        super().__init__()
        for name, value in {"hidden": hidden, "pieces": pieces}.items():
            if value < 1:
                raise UserError(f"fusion.maxout_{name}={value}: give 1 or more")
        self.pieces = pieces
        self.layers = nn.ModuleList(nn.Linear(width, hidden * pieces) for width in (size, hidden))
        self.norms = nn.ModuleList(Batch(width) for width in (size, hidden, hidden))
        self.out = nn.Linear(hidden, genres)

    def forward(self, fused: Fused) -> Tensor:
        x = fused.vector  # (B, D)
        rows = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = layer(norm(x, rows)).unflatten(-1, (-1, self.pieces)).amax(dim=-1)
        return self.out(self.norms[-1](x, rows))


class MixtureHead(nn.Module):
    """p_c = sum_m pi_m sigmoid(v_mc . h_m + b_mc), written as exact logits, stable in the tails.

    Reads h_m from `Fused.vector` (B, M D) and pi from `Fused.gates` (B, M, 1). A movie without any modality has the mean of the
    biases as its logit.
    """

    def __init__(self, modalities: int, dim: int, genres: int):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(dim, genres) for _ in range(modalities))

    def forward(self, fused: Fused) -> Tensor:
        hidden = fused.vector.chunk(len(self.experts), dim=-1)
        a = torch.stack([expert(h) for expert, h in zip(self.experts, hidden, strict=True)], dim=-2)  # (B, M, C)
        pi = fused.gates  # (B, M, 1)
        assert pi is not None
        some = (pi > 0).any(dim=-2, keepdim=True)
        # What weighs nothing is out of the sum at -inf, not by log 0: its derivative is NaN even where nothing depends on it.
        log_pi = torch.where(pi > 0, pi, 1.0).log().masked_fill((pi == 0) & some, float("-inf"))
        logits = torch.logsumexp(log_pi + F.logsigmoid(a), dim=-2) - torch.logsumexp(log_pi + F.logsigmoid(-a), dim=-2)
        biases = torch.stack([cast(Tensor, expert.bias) for expert in self.experts]).mean(dim=0)
        return torch.where(some.squeeze(-2), logits, biases)
