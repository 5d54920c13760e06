"""Parameter groups, updates and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from gmu_lightning.config.ranges import FromZero, Probability


def parameter_groups(rates: Sequence[tuple[nn.Module, float]], weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups: each module at its own learning rate, biases and norms without weight decay.

    Equal rates and decays share a group, since each group costs a call per update. The last group is one of the last module's.

    Args:
        rates: (module, learning rate) pairs; a parameter of several modules takes the first one's rate. Frozen parameters are
            included.
        weight_decay: for parameters with two axes or more; the others get 0.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module, rate in rates:
        own = [p for p in module.parameters() if id(p) not in seen]
        seen.update(id(p) for p in own)
        for chosen, decay in (([p for p in own if p.ndim > 1], weight_decay), ([p for p in own if p.ndim <= 1], 0.0)):
            if chosen:
                groups[rate, decay] = groups.pop((rate, decay), []) + chosen
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


class Updates:
    """Update parameters as an optimizer does, for a fused AdamW at less cost per call.

    `Optimizer.step` looks at its settings and sorts its tensors at every call. For a small head on a CPU, this takes as long as
    the update itself. `step` calls the same kernel on the same tensors. Weights and the optimizer's state stay the same to the
    last bit, and step hooks do not run. Any other optimizer is called as it is.

    Args:
        optimizer: its settings stay the same, except for the learning rates, which are read at every step.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        same = len({(p.device, p.dtype) for p in self._parameters}) == 1
        unusual = ("amsgrad", "maximize", "capturable", "differentiable")
        plain = all(group.get("fused") and not any(group[name] for name in unusual) for group in optimizer.param_groups)
        self._plain = type(optimizer) is AdamW and same and plain

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        state = self.optimizer.state
        # The optimizer itself creates the state of its parameters, at the first step.
        if not self._plain or any(p.grad is None or p not in state for p in self._parameters):
            self.optimizer.step()
            return
        for group in self.optimizer.param_groups:
            states = [state[p] for p in group["params"]]
            steps = [own["step"] for own in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                group["params"],
                [p.grad for p in group["params"]],
                [own["exp_avg"] for own in states],
                [own["exp_avg_sq"] for own in states],
                [],
                steps,
                lr=float(group["lr"]),
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def warmup(
    optimizer: Optimizer, total_steps: int, share: Probability = 0.1, decay: Literal["constant", "linear", "cosine"] = "linear"
) -> LambdaLR:
    """Return a schedule: a linear rise over the first `share` of all steps, then `constant`, `linear` to 0 or `cosine` to 0."""
    rising = _rising(share, total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, total_steps - rising))
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[decay]

    return LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, total_steps: int, share: Probability = 0.3) -> OneCycleLR:
    """Return a schedule: a rise to each group's rate over the first `share` of all steps, then a fall.

    This is the one-cycle policy of Smith & Topin 2018 (arXiv 1708.07120), without its momentum cycle.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=share, cycle_momentum=False)


def plateau(
    optimizer: Optimizer, total_steps: int, patience: FromZero = 2, factor: Probability = 0.5, share: Probability = 0.0
) -> list[LRScheduler]:
    """Return schedules that multiply the rates by `factor` when the monitored score has not risen for `patience` + 1 epochs.

    A score has risen if it exceeds the best so far by more than 0.01 %. The schedule of the plateau is the last in the list. A
    linear rise over the first `share` of all steps comes before it, if that is more than one step. Both scale the current rate,
    so they combine.
    """
    rising = _rising(share, total_steps)
    rise = [LinearLR(optimizer, start_factor=1 / rising, total_iters=rising)] if rising > 1 else []
    return [*rise, ReduceLROnPlateau(optimizer, mode="max", patience=patience, factor=factor)]


def _rising(share: float, total_steps: int) -> int:
    return round(share * total_steps)
