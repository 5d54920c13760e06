"""Heads over resident features, trained in the plainest of loops: what a run costs is its arithmetic.

Under a Trainer a head spends as long between its steps as within them. Here whole columns of features stay where they are needed,
a batch is a list of row numbers, and scores are taken once an epoch; order, dropout, updates and early stopping are a Trainer's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmu_lightning import callbacks
from gmu_lightning.callbacks.determinism import seed_generators, seed_of
from gmu_lightning.experiment.stackable import Patience
from gmu_lightning.experiment.train import Opened
from gmu_lightning.movie import Features, MovieBatch, UserError
from gmu_lightning.run import Predictions

SECONDS_UNSEEN = 5.0  # history.csv is written as often while a run is going on


class Trained(NamedTuple):
    """What one run of a stack has become."""

    epochs: callbacks.Epochs
    best_epoch: int
    best: dict[str, Tensor]  # its model's state after that epoch
    last: dict[str, Tensor]
    optimizer: dict[str, Any]  # its own part of the optimizer's state
    seconds: float


class Heads:
    """K runs of one configuration but for their seeds; a subclass says how they take a step.

    Args:
        opened: the runs, each with its own freshly drawn model over the same data.
        device: where they are trained.

    Attributes:
        optimizer: over whatever a subclass trains.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, opened: Sequence[Opened], device: torch.device):
        self.opened, self.device = opened, device
        self.seeds = [int(run.config["seed"]) for run in opened]
        self.model, self.data, self.config = opened[0].model.to(device), opened[0].data, opened[0].config
        self.columns = {m: column.vectors.to(device) for m, column in self.data.columns.items()}  # (N, d_m)
        self.present, self.targets = self.data.present.to(device), self.data.targets.to(device)
        self.steps = 0

    def losses(self, chosen: Tensor, epoch: int, index: int) -> Tensor:
        """Row numbers (K, B) of batch `index` of an epoch -> (K,), with the randomness of that batch."""
        raise NotImplementedError

    def clip(self, most: float) -> None:
        """Each run's gradient to a norm of at most `most`."""
        raise NotImplementedError

    def val_logits(self) -> Tensor:
        """(K, N_val, C)."""
        raise NotImplementedError

    def state(self, k: int) -> dict[str, Tensor]:
        """A copy of run k's model as it is now, on the CPU."""
        raise NotImplementedError

    def optimizer_state(self, k: int) -> dict[str, Any]:
        """A copy of run k's part of the optimizer."""
        raise NotImplementedError

    def restore(self) -> None:
        """Put the models back as they were made."""

    def fit(self) -> list[Trained | UserError]:
        """Train all of them, each to its own end; a run that cannot go on is the sentence that says why, and costs no other."""
        start = time.perf_counter()
        count, epochs = len(self.opened), int(self.config["trainer"]["max_epochs"])
        tables = [callbacks.Epochs(run.run) for run in self.opened]
        stops = [Patience(self.config) for _ in self.opened]
        best: list[tuple[float, int, dict[str, Tensor]]] = [(float("-inf"), 0, {})] * count
        ends: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}
        lost: dict[int, UserError] = {}
        self._schedule()
        written = start
        for epoch in range(epochs):
            began = time.perf_counter()
            losses, rate = self._train_epoch(epoch)
            logits = self.val_logits()
            seconds = (time.perf_counter() - began) / count
            for k in range(count):
                if k in ends or k in lost:
                    continue
                try:
                    found = callbacks.val_scores(self.model, self._predictions(logits[k]))
                    tables[k].add(epoch, self.steps, seconds, rate, losses[k], found)
                except UserError as error:
                    lost[k] = error
                    continue
                score = found[self.config["monitor"]]
                if score > best[k][0]:
                    best[k] = (score, epoch, self.state(k))
                if stops[k].over(score) or epoch + 1 == epochs:
                    ends[k] = (self.state(k), self.optimizer_state(k))
            if len(ends) + len(lost) == count:
                break
            if time.perf_counter() - written > SECONDS_UNSEEN:
                written = time.perf_counter()
                for k in range(count):
                    tables[k].write(lasting=False)
        self.restore()
        seconds = (time.perf_counter() - start) / count
        return [lost[k] if k in lost else Trained(tables[k], best[k][1], best[k][2], *ends[k], seconds) for k in range(count)]

    def _schedule(self) -> None:
        assert self.model.scheduler is not None
        made = self.model.scheduler(self.optimizer, total_steps=self.model.total_steps())
        self.schedules = made if isinstance(made, list) else [made]

    def _train_epoch(self, epoch: int) -> tuple[list[float], float]:
        """One epoch of every run: their mean losses, and the rate of the last update."""
        self.model.train()
        most = self.config["trainer"]["gradient_clip_val"]
        orders = []
        for run, seed in zip(self.opened, self.seeds, strict=True):
            run.data.seed_order(seed)
            orders.append(run.data.batches("train", training=True).batches(epoch))
        sums, movies, rate = torch.zeros(len(self.opened), device=self.device, dtype=torch.float64), 0, 0.0
        for index, rows in enumerate(zip(*orders, strict=True)):
            chosen = torch.tensor(rows).to(self.device)  # (K, B)
            losses = self.losses(chosen, epoch, index)
            self.optimizer.zero_grad()
            losses.sum().backward()
            if most:
                self.clip(float(most))
            rate = self.optimizer.param_groups[-1]["lr"]
            self.optimizer.step()
            for schedule in self.schedules:
                schedule.step()
            sums += losses.detach() * chosen.shape[1]
            movies += chosen.shape[1]
            self.steps += 1
        return (sums / movies).tolist(), rate

    def _predictions(self, logits: Tensor) -> Predictions:
        rows, data = self.data.rows("val"), self.data
        return Predictions(
            ids=data.ids["val"],
            split="val",
            genres=data.vocabulary.names,
            modalities=tuple(self.columns),
            present=data.present[rows].numpy(),
            logits=logits.numpy(),
            labels=data.labels[rows],
            data_fingerprint=data.fingerprint,
        )


class Single(Heads):
    """One run, by itself."""

    def __init__(self, opened: Sequence[Opened], device: torch.device):
        super().__init__(opened, device)
        assert self.model.optimizer is not None
        self.optimizer = self.model.optimizer(self.model.parameter_groups(), lr=self.model.lr)

    def losses(self, chosen: Tensor, epoch: int, index: int) -> Tensor:
        """(1, B) -> (1,)."""
        seed_generators(seed_of(self.seeds[0], epoch, index, 0), self.device)
        rows = chosen[0]
        return self.model.loss(self._logits(rows), self.targets[rows])[None]

    def clip(self, most: float) -> None:
        """As Lightning does."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """(1, N_val, C)."""
        self.model.eval()
        return self._logits(torch.from_numpy(self.data.rows("val")).to(self.device))[None].double().cpu()

    def state(self, k: int) -> dict[str, Tensor]:
        """A copy, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def optimizer_state(self, k: int) -> dict[str, Any]:
        """The optimizer's, as it is: nobody goes on from here."""
        return self.optimizer.state_dict()

    def _logits(self, rows: Tensor) -> Tensor:
        vectors = {m: Features(column[rows].float()) for m, column in self.columns.items()}
        return self.model(MovieBatch((), vectors, self.present[rows], None)).logits
