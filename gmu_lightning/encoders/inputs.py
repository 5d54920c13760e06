"""What an encoder reads is a tensor, or a NamedTuple of tensors and of tuples with a number per row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Partial(NamedTuple):
    """What the frozen first blocks of a network made of B contents: the encoder goes on from there."""

    hidden: Tensor  # (B, T, d), zeros where no token is; or maps (B, ...)
    mask: Tensor | None = None  # (B, T) bool, True where a token is
    lengths: tuple[int, ...] | None = None  # tokens per row, all at the left


def moved(inputs: Any, device: torch.device) -> Any:
    """The same inputs on a device; where they were pinned, nobody waits for it."""
    return _mapped(inputs, lambda tensor: tensor.to(device, non_blocking=True), lambda numbers: numbers)


def selected(inputs: Any, rows: Tensor) -> Any:
    """Some rows (n,) int64 of inputs with B of them."""
    chosen = rows.tolist()
    return _mapped(inputs, lambda tensor: tensor[rows], lambda numbers: tuple(numbers[n] for n in chosen))


def _mapped(inputs: Any, tensors: Callable[[Tensor], Tensor], numbers: Callable[[tuple], tuple]) -> Any:
    if isinstance(inputs, Tensor):
        return tensors(inputs)
    return type(inputs)(*(tensors(p) if isinstance(p, Tensor) else p if p is None else numbers(p) for p in inputs))
