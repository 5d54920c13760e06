"""Runs that differ by their seed, trained as one model whose parameters have one axis more (torch.func, vmap).

A head of a few hundred thousand parameters leaves a GPU idle between its kernels; K of them a step cost little more than one.
Each keeps its own order of movies, its own dropout and its own best epoch, and gets what it would get alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gmu_lightning.callbacks.determinism import seed_generators, seed_of
from gmu_lightning.encoders.normalise import Standardise
from gmu_lightning.experiment.heads import Heads
from gmu_lightning.experiment.train import Opened
from gmu_lightning.movie import Features, MovieBatch


class _Masked(nn.Module):
    """A dropout whose mask, already scaled, is put in from outside."""

    mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask


class Stack(Heads):
    """All of them in every step."""

    def __init__(self, opened: Sequence[Opened], device: torch.device):
        super().__init__(opened, device)
        self.draws = {name: cast(nn.Dropout, module).train() for name, module in self.model.dropouts.items()}
        self.model.dropouts = nn.ModuleDict({name: _Masked() for name in self.draws})
        states = [dict(run.model.named_parameters()) for run in opened]
        self.parameters = {n: nn.Parameter(torch.stack([s[n].detach().to(device) for s in states])) for n in states[0]}
        self.buffers = dict(self.model.named_buffers())
        for module in self.model.normalisers.modules():
            if isinstance(module, Standardise):
                module.look()
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = [
            {**group, "params": [self.parameters[names[id(p)]] for p in group["params"]]}
            for group in self.model.parameter_groups()
        ]
        assert self.model.optimizer is not None
        self.optimizer = self.model.optimizer(groups, lr=self.model.lr)

    def losses(self, chosen: Tensor, epoch: int, index: int) -> Tensor:
        """(K, B) -> (K,)."""
        masks = self._masks(epoch, index, chosen.shape[1])
        vectors = {m: column[chosen].float() for m, column in self.columns.items()}  # (K, B, d_m)

        def loss(parameters: Mapping[str, Tensor], vectors: Any, present: Tensor, targets: Tensor, masks: Any) -> Tensor:
            for name, dropout in self.model.dropouts.items():
                dropout.mask = masks.get(name)
            return self.model.loss(self._logits(parameters, vectors, present), targets)

        found = vmap(loss)(self.parameters, vectors, self.present[chosen], self.targets[chosen], masks)
        for dropout in self.model.dropouts.values():
            dropout.mask = None  # type: ignore[assignment]
        return found

    def _logits(self, parameters: Mapping[str, Tensor], vectors: Mapping[str, Tensor], present: Tensor) -> Tensor:
        batch = MovieBatch(("",) * len(present), {m: Features(vector) for m, vector in vectors.items()}, present, None)
        return functional_call(self.model, (dict(parameters), self.buffers), (batch,)).logits

    def _masks(self, epoch: int, index: int, size: int) -> dict[str, Tensor]:
        """What the models' dropouts would draw one by one: {modality: (K, B, d_m)}, scaled; none where nothing is dropped."""
        if not any(draw.p for draw in self.draws.values()):
            return {}
        drawn: dict[str, list[Tensor]] = {name: [] for name in self.draws}
        for seed in self.seeds:
            seed_generators(seed_of(seed, epoch, index, 0), self.device)
            for name, draw in self.draws.items():
                ones = torch.ones(size, self.columns[name].shape[1], device=self.device)
                drawn[name].append(draw(ones))
        return {name: torch.stack(masks) for name, masks in drawn.items()}

    def clip(self, most: float) -> None:
        """As Lightning does to one."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()  # (K,)
        factors = (most / (norms + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """(K, N_val, C)."""
        self.model.eval()
        rows = torch.from_numpy(self.data.rows("val")).to(self.device)
        vectors, present = {m: column[rows].float() for m, column in self.columns.items()}, self.present[rows]
        return vmap(lambda parameters: self._logits(parameters, vectors, present))(self.parameters).double().cpu()

    def state(self, k: int) -> dict[str, Tensor]:
        """Its slices, and the buffers that all share."""
        return {name: p.detach()[k].cpu().clone() for name, p in self.parameters.items()} | {
            name: buffer.cpu() for name, buffer in self.model.state_dict().items() if name in self.buffers
        }

    def optimizer_state(self, k: int) -> dict[str, Any]:
        """Its slices."""

        def own(value: Any) -> Any:
            return value[k].cpu().clone() if isinstance(value, Tensor) and value.ndim else value

        whole = self.optimizer.state_dict()
        return {**whole, "state": {n: {key: own(v) for key, v in state.items()} for n, state in whole["state"].items()}}

    def restore(self) -> None:
        """Dropouts that draw for themselves again."""
        self.model.dropouts = nn.ModuleDict(self.draws)
