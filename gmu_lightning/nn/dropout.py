"""Dropout with masks that are cheap to draw on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = 65536  # a dropout probability is rounded to a multiple of 1 / LEVELS
FEW_LEVELS, NEAR = 256, 0.02  # or of 1 / 256, if that changes it by at most 2 %: half the random bits


def kept_of(x: Tensor, p: float) -> Tensor:
    """Draw a dropout mask with the shape and dtype of x: 0 with probability p, else 1.

    The mask follows torch's generator, from which it takes one number as a seed. torch draws its own masks value by value in one
    thread, which takes longer than the attention itself. A mask in the dtype of x is several times as fast to apply as a bool
    mask.

    Args:
        x: the values to drop.
        p: probability, rounded to a multiple of 1 / LEVELS or 1 / FEW_LEVELS, and at most 1 - 1 / LEVELS.
    """
    level, levels = _level(p)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    count, kind = (8, np.int8) if levels == FEW_LEVELS else (4, np.int16)
    words = np.random.SFC64(seed).random_raw(-(-x.numel() // count))
    bits = torch.from_numpy(words.view(kind)[: x.numel()]).view(x.shape)
    return torch.ge(bits, level - levels // 2, out=torch.empty_like(x, memory_format=torch.contiguous_format))


def gain(p: float) -> float:
    """Return the factor for kept values that preserves the expectation, 1 / (1 - p) with p rounded as in `kept_of`."""
    level, levels = _level(p)
    return 1 / (1 - level / levels)


def _level(p: float) -> tuple[int, int]:
    """Return a probability as a level and the number of levels."""
    few = round(p * FEW_LEVELS)
    if few < FEW_LEVELS and abs(few / FEW_LEVELS - p) <= NEAR * p:
        return few, FEW_LEVELS
    return min(round(p * LEVELS), LEVELS - 1), LEVELS


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = kept_of(x, p).mul_(gain(p))
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        return gradient * kept, None


class Dropout(nn.Dropout):
    """nn.Dropout with cheap masks on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        if not input.requires_grad:
            return kept_of(input, self.p).mul_(gain(self.p)).mul_(input)
        return _Dropped.apply(input, self.p)


def with_cheap_dropout(network: nn.Module) -> None:
    """Replace every nn.Dropout within a network by `Dropout`, in place. Subclasses of nn.Dropout stay."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
