"""Heads turn the fused vector into genre logits. A linear head splits each logit exactly; the others do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.decisions import Task
from gmu_lightning.movie import Fused
from gmu_lightning.nn.dropout import Dropout
from gmu_lightning.nn.normalise import Batch


class LinearHead(nn.Linear):
    """logit_c = b_c + w_c . h, so each logit is exactly the bias plus one contribution per modality."""

    def forward(self, fused: Fused) -> Tensor:  # type: ignore[override]
        return super().forward(fused.vector)

    def contributions(self, fused: Fused) -> Tensor | None:
        """Return w_c . part_m, (B, M, C), in float64 (float32 on mps); None if the fusion is not additive."""
        if fused.parts is None:
            return None
        wide = torch.float32 if fused.parts.device.type == "mps" else torch.float64
        with torch.autocast(fused.parts.device.type, enabled=False):
            return fused.parts.to(wide) @ self.weight.to(wide).T

    def unimodal(self, fused: Fused, present: Tensor) -> Tensor | None:
        """Return the logits of each modality by itself, w_c . part_m + b_c / |P|, (B, M, C); None if the fusion is not additive.

        Those of the present modalities sum to the movie's logits.

        Args:
            fused: B movies.
            present: (B, M) bool; |P| is its number of modalities in each row.
        """
        if fused.parts is None:
            return None
        shares = 1 / present.sum(dim=1, keepdim=True).clamp_min(1)  # (B, 1)
        return F.linear(fused.parts, self.weight) + shares[..., None] * self.bias


class MaxoutHead(nn.Module):
    """logits = V BN(maxout BN(maxout BN(h))) + b.

    Maxout is the largest of k linear pieces (Goodfellow et al. 2013, arXiv 1302.4389). With k = 2 this is the classifier of
    Arevalo et al. 2017 (github.com/johnarevalo/gmu-mmimdb). It is not linear in h, so it has no contributions.

    Args:
        size: D.
        genres: C.
        hidden: width of the two maxout layers.
        pieces: k.
        dropout: probability between each normalisation and the linear layer behind it.
    """

    def __init__(self, size: int, genres: int, hidden: int, pieces: int = 2, dropout: float = 0.0):
        super().__init__()
        self.size, self.pieces = size, pieces
        self.layers = nn.ModuleList(nn.Linear(width, hidden * pieces) for width in (size, hidden))
        self.norms = nn.ModuleList(Batch(width) for width in (size, hidden, hidden))
        self.out = nn.Linear(hidden, genres)
        self.dropout = Dropout(dropout)

    def forward(self, fused: Fused) -> Tensor:
        x = fused.vector  # (B, D)
        return self.logits(x, torch.ones(x.shape[0], dtype=torch.bool, device=x.device))

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return logits (B, C) of x (B, D); the normalisers learn from the movies in `rows` (B,) alone."""
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = layer(self.dropout(norm(x, rows))).unflatten(-1, (-1, self.pieces)).amax(dim=-1)
        return self.out(self.dropout(self.norms[-1](x, rows)))


class MixtureHead(nn.Module):
    """p_c = sum_m pi_mc sigmoid(e_mc), written as exact logits, stable in the tails.

    For `multiclass`, p_c = sum_m pi_mc softmax(e_m)_c, and the logits are log p. Their softmax is p, divided by its sum over c if
    each genre has its own weights.

    Args:
        experts: expert m returns e_m (B, C) from the m-th block of `Fused.vector`, (B, d_m).
        gate: returns pi before the softmax, (B, M C), from the rest of `Fused.vector` behind these blocks. None takes pi from
            `Fused.gates`, (B, M, 1), for all genres.
        task: of the labels.

    `Fused.gates` is 0 where a modality is absent. A movie without any modality has the mean of the experts' biases as its logit.
    """

    def __init__(self, experts: Sequence[nn.Linear | MaxoutHead], gate: nn.Linear | None = None, task: Task = "multilabel"):
        super().__init__()
        self.task = task
        self.experts = nn.ModuleList(experts)
        self.gate = gate
        self.widths = [e.in_features if isinstance(e, nn.Linear) else e.size for e in experts]

    @property
    def bias(self) -> Tensor:
        """Return the mean of the experts' biases, (C,)."""
        outs = [expert.out if isinstance(expert, MaxoutHead) else expert for expert in self.experts]
        return torch.stack([cast(Tensor, out.bias) for out in outs]).mean(dim=0)

    def forward(self, fused: Fused) -> Tensor:
        return self.mixed(fused, self.weights(fused))

    def weights(self, fused: Fused) -> Tensor:
        """Return pi, (B, M, 1), or (B, M, C) if each genre has its own. It is 0 where a modality is absent."""
        assert fused.gates is not None
        if self.gate is None:
            return fused.gates
        rest = self._inputs(fused)[-1]
        return present_softmax(self.gate(rest).unflatten(-1, (len(self.experts), -1)), fused.gates > 0)

    def mixed(self, fused: Fused, pi: Tensor) -> Tensor:
        """Return the logits (B, C) of the experts under the weights pi, as `weights` returns them."""
        assert fused.gates is not None
        present = fused.gates > 0
        each = [self._expert(m, x, present[:, m, 0]) for m, x in enumerate(self._inputs(fused)[:-1])]
        a = torch.stack(each, dim=-2)  # (B, M, C)
        some = present.any(dim=-2, keepdim=True)
        # The log of a weight 0 is set to -inf by a mask. Computing log 0 would give NaN gradients, even for unused entries.
        log_pi = torch.where(pi > 0, pi, 1.0).log().masked_fill((pi == 0) & some, float("-inf"))
        if self.task == "multiclass":
            logits = torch.logsumexp(log_pi + F.log_softmax(a, dim=-1), dim=-2)
        else:
            logits = torch.logsumexp(log_pi + F.logsigmoid(a), dim=-2) - torch.logsumexp(log_pi + F.logsigmoid(-a), dim=-2)
        return torch.where(some.squeeze(-2), logits, self.bias)

    def unimodal(self, fused: Fused, present: Tensor) -> Tensor | None:
        """Return e (B, M, C), the logits of each expert; None for experts that learn from a batch, which run once."""
        if any(isinstance(expert, MaxoutHead) for expert in self.experts):
            return None
        return torch.stack([self._expert(m, x, present[:, m]) for m, x in enumerate(self._inputs(fused)[:-1])], dim=1)

    def _inputs(self, fused: Fused) -> tuple[Tensor, ...]:
        """Return the experts' inputs (B, d_m), and the rest of the vector behind them."""
        return fused.vector.split([*self.widths, fused.vector.shape[-1] - sum(self.widths)], dim=-1)

    def _expert(self, m: int, x: Tensor, rows: Tensor) -> Tensor:
        expert = self.experts[m]
        return expert.logits(x, rows) if isinstance(expert, MaxoutHead) else expert(x)


def present_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Return the softmax of logits (B, ..., M, C) over the modalities in present (B, ..., M, 1), and 0 elsewhere."""
    some = present.any(dim=-2, keepdim=True)
    return torch.where(some, torch.softmax(logits.masked_fill(~present & some, float("-inf")), dim=-2), 0.0)


class ScaledLinear(nn.Linear):
    """W x / sqrt(d) + b, for the gate of a mixture over d inputs.

    Adam moves every weight by about the same step. Over hundreds of standardised inputs these steps add up. Without the
    division a softmax gate saturates after a few steps, before its experts have learned. Attention divides its products by
    sqrt(d) for the same reason (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / math.sqrt(self.in_features))
