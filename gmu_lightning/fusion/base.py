"""What every fusion shares: encode each modality by itself, blank what is absent, and a head over what was fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.movie import Features, Fused, MovieBatch, UserError


class Fusion(nn.Module):
    """{modality: (B, ..., d_m)} -> Fused.

    A subclass says what it needs of its inputs and how many modalities it takes, and fuses in `fuse`, where inputs of absent
    modalities are zeros already.

    Args:
        sizes: {modality: d_m}, in the order of every M axis.
        dim: D, the common size.

    Raises:
        UserError: `dim` is below 1.

    Attributes:
        size: width of `Fused.vector`.
        open_threshold: a feature's gate is open above it: 1/M where gates sum to one over M.
    """

    needs: ClassVar[str] = "vector"
    fewest: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    def __init__(self, sizes: Mapping[str, int], dim: int = 256):
        super().__init__()
        if dim < 1:
            raise UserError(f"fusion.dim={dim} is no size: give 1 or more, such as fusion.dim=256")
        self.sizes = dict(sizes)
        self.dim = self.size = dim
        self.open_threshold = 1 / len(self.sizes)

    def encode(self, encoders: Any, batch: MovieBatch) -> dict[str, Features]:
        """Each modality by itself; features that are in the batch already pass through; an absent modality is never encoded."""
        return {m: _encoded(encoders[m], batch.inputs[m], batch.present[:, i]) for i, m in enumerate(self.sizes)}

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor | None = None) -> Fused:
        """Fuse.

        Args:
            inputs: (B, ..., d_m) per modality.
            present: (B, M) bool, one row per movie whatever the inputs' other dimensions; None means all present.
        """
        first = next(iter(inputs.values()))
        if present is None:
            present = torch.ones(len(first), len(self.sizes), dtype=torch.bool, device=first.device)
        there = present.view(len(first), *[1] * (first.ndim - 2), len(self.sizes), 1)  # (B, ..., M, 1)
        # A product with zero would let NaN through; what is absent is replaced before anything is computed.
        blanked = [torch.where(there[..., i, :], inputs[m], 0.0) for i, m in enumerate(self.sizes)]
        return self.fuse(blanked, there)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Inputs (B, ..., d_m) in the order of `sizes`, zeros where absent; present (B, ..., M, 1) -> Fused."""
        raise NotImplementedError

    def head(self, genres: int) -> nn.Module:
        """What turns Fused into logits (B, C)."""
        return LinearHead(self.size, genres)


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


def mismatch(fusion: type[Fusion], name: str, modalities: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """Why a fusion cannot take so many modalities, in a sentence with the way out; None where it can.

    Args:
        fusion: only what the class declares is asked.
        name: as `fusion=` spells it.
        others: fusions that take so many, to be named.
    """
    count = len(modalities)
    if fusion.fewest <= count <= (fusion.most or count):
        return None
    word = "+".join(modalities)
    another = f"fusion={', '.join(others)}" if others else "another fusion"
    if count < fusion.fewest:
        takes, choose = f"at least {fusion.fewest} modalities", "choose fusion=none, or more modalities"
    elif fusion.most == 1:
        takes, choose = "exactly one modality", f"choose one, or {another}"
    else:
        takes, choose = f"at most {fusion.most} modalities", f"choose fewer, or {another}"
    return f"fusion={name} takes {takes} and modalities={word} names {count}: {choose}"


def _encoded(encoder: Any, inputs: Any, present: Tensor) -> Features:
    if isinstance(inputs, Features):
        return inputs
    if bool(present.all()):
        return encoder(inputs)
    rows = present.nonzero().squeeze(1)
    if not len(rows):
        return Features(torch.zeros(len(present), encoder.dim, device=present.device))
    chosen = inputs[rows] if isinstance(inputs, Tensor) else type(inputs)(*(t[rows] for t in inputs))
    vector, sequence, mask = encoder(chosen)

    def scattered(tensor: Tensor) -> Tensor:
        return tensor.new_zeros(len(present), *tensor.shape[1:]).index_copy(0, rows, tensor)

    return Features(
        scattered(vector), None if sequence is None else scattered(sequence), None if mask is None else scattered(mask)
    )
