"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from gmu_lightning.movie import UserError

DECAYS = ("constant", "linear", "cosine")


def parameter_groups(rates: Sequence[tuple[nn.Module, float]], weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: each module at its rate, no weight decay on biases and norms (what has fewer than two axes)."""
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for module, rate in rates:
        own = [p for p in module.parameters() if id(p) not in seen]
        seen.update(id(p) for p in own)
        for chosen, decay in (([p for p in own if p.ndim > 1], weight_decay), ([p for p in own if p.ndim <= 1], 0.0)):
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return groups


def warmup(optimizer: Optimizer, total_steps: int, share: float = 0.1, decay: str = "linear") -> LambdaLR:
    """A linear rise over the first `share` of all steps, then `constant`, `linear` to 0 or `cosine` to 0."""
    if decay not in DECAYS:
        raise UserError(f"scheduler.decay={decay} does not exist: choose one of {', '.join(DECAYS)}")
    rising = _rising(share, total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, total_steps - rising))
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[decay]

    return LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, total_steps: int, share: float = 0.3) -> OneCycleLR:
    """Up to each group's rate over the first `share` of all steps and down again (Smith & Topin 2018, arXiv 1708.07120)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=share, cycle_momentum=False)


def plateau(
    optimizer: Optimizer, total_steps: int, patience: int = 2, factor: float = 0.5, share: float = 0.0
) -> list[LRScheduler]:
    """Rates times `factor` when the monitored score has not risen for `patience` epochs.

    Before that a linear rise over `share` of all steps. Both scale the rate that they find, so neither undoes the other.
    """
    rising = _rising(share, total_steps)
    rise = [LinearLR(optimizer, start_factor=1 / rising, total_iters=rising)] if rising > 1 else []
    return [*rise, ReduceLROnPlateau(optimizer, mode="max", patience=patience, factor=factor)]


def _rising(share: float, total_steps: int) -> int:
    if not 0 <= share < 1:
        raise UserError(f"scheduler.share={share} is no share of the run: give a number from 0 to below 1")
    return round(share * total_steps)
