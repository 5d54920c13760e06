"""Dropout with masks that are cheap to draw on a CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MASKS = "parts of one row"  # how masks are drawn; an unfinished run with other masks cannot continue exactly
LEVELS = 65536  # a dropout probability is rounded to a multiple of 1 / LEVELS
FEW_LEVELS, NEAR = 256, 0.02  # or of 1 / 256, if that changes it by at most 2 %: half the random bits
SEED = 0  # of the random numbers in a row
SHORTEST = 1 << 22  # numbers in a row. If a mask needs more than half of it, a longer row is made.
STRIDE = 32  # a mask begins at a multiple of it, so that memory is read in whole lines


def kept_of(x: Tensor, p: float, scale: float = 1.0) -> Tensor:
    """Return a random dropout mask with the shape and dtype of x: 0 with probability p, else `scale`. Do not change it.

    The mask is a part of a fixed row of random numbers, and torch's generator chooses where it begins. torch draws its own masks
    value by value in one thread, which takes longer than attention itself. A mask in the dtype of x is several times as fast to
    apply as a bool mask.

    Args:
        x: the values to drop.
        p: probability, rounded to a multiple of 1 / LEVELS or 1 / FEW_LEVELS, and at most 1 - 1 / LEVELS.
        scale: value of the mask where x is kept.
    """
    count = x.numel()
    row = _row(max(SHORTEST, 1 << (2 * count).bit_length()), p, scale, x.dtype)
    begin = STRIDE * int(torch.randint((len(row) - count) // STRIDE, ()))
    return row[begin : begin + count].view(x.shape)


@lru_cache(maxsize=16)
def _row(length: int, p: float, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the row from which masks are taken. Every process has the same, so a resumed run takes the same masks."""
    level, levels = _level(p)
    count, kind = (8, np.int8) if levels == FEW_LEVELS else (4, np.int16)
    bits = torch.from_numpy(np.random.SFC64(SEED).random_raw(length // count).view(kind))
    return torch.ge(bits, level - levels // 2, out=torch.empty(length, dtype=dtype)).mul_(scale)


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
        kept = kept_of(x, p, gain(p))
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
            return input * kept_of(input, self.p, gain(self.p))
        return _Dropped.apply(input, self.p)


def with_cheap_dropout(network: nn.Module) -> None:
    """Replace every nn.Dropout within a network by `Dropout`, in place. Subclasses of nn.Dropout stay."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
