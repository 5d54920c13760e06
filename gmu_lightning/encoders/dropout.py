"""Dropout whose masks cost little on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = 65536  # a dropout probability is rounded to a multiple of 1 / LEVELS


def kept_of(x: Tensor, p: float) -> Tensor:
    """A mask like x, 0 with probability p (rounded to 1 / LEVELS) and 1 elsewhere, drawn from torch's generator by one number.

    torch draws its own masks value by value in one thread, which costs more than the attention they fall on; and a product with
    numbers of x's own kind is several times as fast as filling where a bool says so.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-x.numel() // 4))
    bits = torch.from_numpy(words.view(np.int16)[: x.numel()]).view(x.shape)
    return torch.ge(bits, _level(p) - LEVELS // 2, out=torch.empty_like(x, memory_format=torch.contiguous_format))


def gain(p: float) -> float:
    """What is kept is multiplied by it, so that its expectation stays."""
    return 1 / (1 - _level(p) / LEVELS)


def _level(p: float) -> int:
    return min(round(p * LEVELS), LEVELS - 1)


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
    """nn.Dropout, with masks that cost little on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        return _Dropped.apply(input, self.p)


def with_cheap_dropout(network: nn.Module) -> None:
    """Every nn.Dropout of a network becomes a `Dropout`."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
