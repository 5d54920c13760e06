"""Train runs over cached vectors in a plain loop, without a Trainer.

A Trainer spends as much time between the steps of a small head as within them. Here, whole columns of features stay on the
device, a batch is a list of row numbers, and scores are computed once per epoch. Order, dropout, updates and early stopping are
the same as a Trainer's.

Runs that differ only in their seed are trained as one model, whose parameters have an additional axis (torch.func, vmap). A head
of a few hundred thousand parameters leaves a GPU idle between its kernels, so a step of K heads costs little more than a step of
one. Each run has its own order of movies, dropout and best epoch, and gets the weights that it would get by itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gmu_lightning import callbacks
from gmu_lightning.balance import Split
from gmu_lightning.callbacks.determinism import seed_generators, seed_of
from gmu_lightning.experiment.environment import device_of
from gmu_lightning.experiment.loggers import log_epochs
from gmu_lightning.experiment.patience import Patience, is_patience
from gmu_lightning.experiment.results import FitResult
from gmu_lightning.experiment.train import PreparedRun, about, complete, warn_of_learning
from gmu_lightning.lightning import pl
from gmu_lightning.movie import Features, MovieBatch, Prediction, UserError
from gmu_lightning.nn.normalise import Standardise
from gmu_lightning.optimisation import Updates
from gmu_lightning.run import Predictions

HISTORY_SECONDS = 5.0  # between two writes of history.csv during training
ROWWISE = ("none", "layer", "standardise")  # normalisers that scale each movie by itself


def incompatibility(prepared: PreparedRun) -> str | None:
    """Return the reason, as a clause, why this loop cannot train a run, or None."""
    config, model, columns = prepared.config, prepared.model, prepared.data.columns.values()
    trainer = config.trainer
    reasons = {
        "its fusion reads sequences": any(model.fusion.reads_tokens(m) for m in prepared.data.columns),
        "an encoder is trained": any(column.resident is None for column in columns),
        "modality_dropout is drawn inside the model": any(model.modality_dropout),
        "its encoders' normalise looks at the whole batch": any(e.normalise not in ROWWISE for e in config.encoder.values()),
        "its fusion or head draws or keeps something in training": any(
            isinstance(module, (nn.Dropout, nn.modules.batchnorm._BatchNorm))
            for part in (model.fusion, model.head)
            for module in part.modules()
        ),
        "trainer.precision is not 32-true": not trainer.in_float32,
        "trainer.accumulate_grad_batches is not 1": trainer.accumulate_grad_batches != 1,
        "trainer.val_check_interval is not 1": trainer.val_check_interval != 1.0,
        "scheduler=plateau looks at its own scores": "plateau" in config.scheduler.node["_target_"],
        "it has callbacks of its own": any(not is_patience(part.node, config.monitor) for part in config.callbacks.values()),
        "trainer.compile=true": trainer.compile,
        f"trainer.profiler={trainer.profiler} watches a Trainer": trainer.profiler is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class TrainedWeights(NamedTuple):
    """One trained run.

    Attributes:
        epochs: recorded losses and scores.
        best_epoch: number of the epoch with the best monitored score, counted from 0.
        best, last: state of the model after the best and after the last epoch, on the CPU.
        optimizer: the run's part of the optimizer's state.
        seconds: the run's share of the training time.
    """

    epochs: callbacks.Epochs
    best_epoch: int
    best: dict[str, Tensor]
    last: dict[str, Tensor]
    optimizer: dict[str, Any]
    seconds: float


class CachedFeatureTrainer:
    """Train one run. `SeedStack` trains several.

    Args:
        prepared: the runs, whose configurations differ only in their seeds, each with its own freshly drawn model over the same
            data.
        device: to train on.

    Attributes:
        val, val_ids: row numbers and ids of val.
        optimizer: over the parameters that are trained.
        scores: (K, M, 2) of the last batch, for a training method that changes gradients.
    """

    def __init__(self, prepared: Sequence[PreparedRun], device: torch.device):
        self.prepared, self.device = prepared, device
        self.seeds = [run.config.seed for run in prepared]
        self.model, self.data, self.config = prepared[0].model.to(device), prepared[0].data, prepared[0].config
        resident = {m: column.resident for m, column in self.data.columns.items()}
        self.columns = {m: x.to(device) for m, x in resident.items() if x is not None}  # (N, d_m)
        self.present, self.targets = self.data.present.to(device), self.data.targets.to(device)
        self.val, self.val_ids = self.data.table.rows("val"), self.data.table.ids["val"]
        self.steps, self.scores = 0, torch.empty(0)
        assert self.model.optimizer is not None
        self.optimizer = self.model.optimizer(params=self.parameter_groups(), lr=self.model.lr)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of the trained parameters."""
        return self.model.parameter_groups()

    def losses(self, chosen: Tensor, epoch: int, index: int) -> Tensor:
        """Return the losses (K,) of one batch of each of the K runs.

        Args:
            chosen: (K, B) int64, row numbers of movies.
            epoch, index: number of the epoch and of the batch in it, which seed the batch's dropout.
        """
        seed_generators(seed_of(self.seeds[0], epoch, index, 0), self.device)
        rows = chosen[0]
        found = self._predicted(rows, self.model.balance.splits)
        loss, scores = self.model.losses(found, self.targets[rows])
        self.scores = scores[None]
        return loss[None]

    def modulate(self, epoch: int, index: int) -> None:
        """Change the gradients of each run as its training method does; the arguments are those of `losses`."""
        balance = self.model.balance
        if balance.is_active(epoch):
            for k, seed in enumerate(self.seeds):
                generator = callbacks.noise_generator(seed, epoch, index, self.device)
                balance.modulate(self.scores[k], self.modality_gradients(k), generator)

    def modality_gradients(self, k: int) -> list[list[Tensor]]:
        """Return for each modality the gradients of run k's weights that serve it alone. Changes of them count."""
        return self.model.modality_gradients()

    def clip(self, most: float) -> None:
        """Clip each run's gradient to a norm of at most `most`, as Lightning does."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """Return the logits of val, (K, N_val, C) float64 on the CPU."""
        self.model.eval()
        return self._predicted(torch.from_numpy(self.val).to(self.device)).logits[None].double().cpu()

    def weights(self, k: int) -> dict[str, Tensor]:
        """Return a copy of the current weights of run k, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def optimizer_state(self, k: int) -> dict[str, Any]:
        """Return run k's part of the optimizer's state. It is shared with the optimizer, so call it once training has ended."""
        return self.optimizer.state_dict()

    def restore(self) -> None:
        """Undo changes to the model's modules."""

    def _predicted(self, rows: Tensor, split: bool = False) -> Prediction | Split:
        vectors = {m: Features(column.index_select(0, rows)) for m, column in self.columns.items()}
        return cast(Prediction | Split, self.model(MovieBatch((), vectors, self.present[rows], None), split))

    def fit(self) -> list[TrainedWeights | UserError]:
        """Train every run to its end. Return trained weights for each run, or the error of a run that failed by itself."""
        start = time.perf_counter()
        count, epochs = len(self.prepared), self.config.trainer.max_epochs
        tables = [callbacks.Epochs(run.run) for run in self.prepared]
        stops = [Patience(self.config) for _ in self.prepared]
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
                score = found[self.config.monitor]
                if score > best[k][0]:
                    best[k] = (score, epoch, self.weights(k))
                if stops[k].over(score) or epoch + 1 == epochs:
                    ends[k] = (self.weights(k), self.optimizer_state(k))
            if len(ends) + len(lost) == count:
                break
            if time.perf_counter() - written > HISTORY_SECONDS:
                written = time.perf_counter()
                for k in range(count):
                    tables[k].write(lasting=False)
        self.restore()
        seconds = (time.perf_counter() - start) / count
        return [lost.get(k) or TrainedWeights(tables[k], *best[k][1:], *ends[k], seconds) for k in range(count)]

    def _schedule(self) -> None:
        assert self.model.scheduler is not None
        made = self.model.scheduler(optimizer=self.optimizer, total_steps=self.model.total_steps())
        self.schedules = made if isinstance(made, list) else [made]

    def _train_epoch(self, epoch: int) -> tuple[list[float], float]:
        """Train every run for one epoch. Return the mean losses of the K runs, and the learning rate of the last update."""
        self.model.train()
        updates = Updates(self.optimizer)
        most = self.config.trainer.gradient_clip_val
        orders = []
        for run in self.prepared:
            orders.append(run.data.batches("train", training=True).batches(epoch))
        sums, movies, rate = torch.zeros(len(self.prepared), device=self.device, dtype=torch.float64), 0, 0.0
        for index, rows in enumerate(zip(*orders, strict=True)):
            chosen = torch.tensor(rows).to(self.device)  # (K, B)
            losses = self.losses(chosen, epoch, index)
            updates.zero_grad()
            losses.sum().backward()
            self.modulate(epoch, index)
            if most:
                self.clip(float(most))
            rate = self.optimizer.param_groups[-1]["lr"]
            updates.step()
            for schedule in self.schedules:
                schedule.step()
            sums += losses.detach() * chosen.shape[1]
            movies += chosen.shape[1]
            self.steps += 1
        return (sums / movies).tolist(), rate

    def _predictions(self, logits: Tensor) -> Predictions:
        data, table = self.data, self.data.table
        return Predictions(
            ids=self.val_ids,
            split="val",
            genres=table.vocabulary.names,
            modalities=tuple(self.columns),
            present=data.present[self.val].numpy(),
            logits=logits.numpy(),
            labels=table.labels[self.val],
            data_fingerprint=table.fingerprint,
            task=table.data_set.task,
        )


class _Masked(nn.Module):
    """A dropout that multiplies by a mask which the caller sets.

    Attributes:
        mask: scaled as in dropout, or None for no dropout.
    """

    mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask


class SeedStack(CachedFeatureTrainer):
    """Train all K runs at once, by one model with stacked parameters."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Stack the parameters of the runs, and return the optimizer's groups of them."""
        self.draws = {name: cast(nn.Dropout, module).train() for name, module in self.model.dropouts.items()}
        self.model.dropouts = nn.ModuleDict({name: _Masked() for name in self.draws})
        states = [dict(run.model.named_parameters()) for run in self.prepared]
        self.parameters = {n: nn.Parameter(torch.stack([s[n].detach().to(self.device) for s in states])) for n in states[0]}
        self.buffers = dict(self.model.named_buffers())
        for module in self.model.normalisers.modules():
            if isinstance(module, Standardise):
                module.look()
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = self.model.parameter_groups()
        return [{**group, "params": [self.parameters[names[id(p)]] for p in group["params"]]} for group in groups]

    def losses(self, chosen: Tensor, epoch: int, index: int) -> Tensor:
        """Return the losses (K,) of one batch of row numbers (K, B)."""
        masks = self._masks(epoch, index, chosen.shape[1])
        vectors = {m: column[chosen].float() for m, column in self.columns.items()}  # (K, B, d_m)

        def loss(
            parameters: Mapping[str, Tensor], vectors: Any, present: Tensor, targets: Tensor, masks: Any
        ) -> tuple[Tensor, Tensor]:
            for name, dropout in self.model.dropouts.items():
                dropout.mask = masks.get(name)
            return self.model.losses(self._stacked(parameters, vectors, present, self.model.balance.splits), targets)

        found, self.scores = vmap(loss)(self.parameters, vectors, self.present[chosen], self.targets[chosen], masks)
        for dropout in self.model.dropouts.values():
            dropout.mask = None  # type: ignore[assignment]
        return found

    def modality_gradients(self, k: int) -> list[list[Tensor]]:
        """Return for each modality the gradients of run k's weights that serve it alone. Changes of them count."""
        names = self.model.modality_weights()
        return [[g[k] for name in own if (g := self.parameters[name].grad) is not None] for own in names]

    def _stacked(
        self, parameters: Mapping[str, Tensor], vectors: Mapping[str, Tensor], present: Tensor, split: bool = False
    ) -> Prediction | Split:
        batch = MovieBatch(("",) * len(present), {m: Features(vector) for m, vector in vectors.items()}, present, None)
        return cast(Prediction | Split, functional_call(self.model, (dict(parameters), self.buffers), (batch, split)))

    def _masks(self, epoch: int, index: int, size: int) -> dict[str, Tensor]:
        """Return the scaled masks that K separate models would draw, {modality: (K, B, d_m)}; {} if no dropout is set."""
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
        """Clip each run's gradient as Lightning does for a single run."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()  # (K,)
        factors = (most / (norms + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """Return the logits of val, (K, N_val, C)."""
        self.model.eval()
        rows = torch.from_numpy(self.val).to(self.device)
        vectors, present = {m: column[rows].float() for m, column in self.columns.items()}, self.present[rows]
        return vmap(lambda parameters: self._stacked(parameters, vectors, present).logits)(self.parameters).double().cpu()

    def weights(self, k: int) -> dict[str, Tensor]:
        """Return a copy of run k's parameters, and the buffers that all runs share, on the CPU."""
        return {name: p.detach()[k].cpu().clone() for name, p in self.parameters.items()} | {
            name: buffer.cpu() for name, buffer in self.model.state_dict().items() if name in self.buffers
        }

    def optimizer_state(self, k: int) -> dict[str, Any]:
        """Return a copy of run k's slices of the optimizer's state, on the CPU."""

        def own(value: Any) -> Any:
            return value[k].cpu().clone() if isinstance(value, Tensor) and value.ndim else value

        whole = self.optimizer.state_dict()
        return {**whole, "state": {n: {key: own(v) for key, v in state.items()} for n, state in whole["state"].items()}}

    def restore(self) -> None:
        """Restore the dropouts that draw their own masks."""
        self.model.dropouts = nn.ModuleDict(self.draws)


def finish(prepared: PreparedRun, trained: TrainedWeights, group: str | None) -> dict[str, Any]:
    """Write the files of a trained run, and return the content of metrics.json; `group` is the name of the sweep, for loggers."""
    own = prepared.ready - prepared.started + trained.seconds  # without the time of the stack's other runs
    return complete(prepared._replace(started=time.perf_counter() - own), group, partial(_adopt, trained))


def _adopt(trained: TrainedWeights, prepared: PreparedRun, loggers: Sequence[Any]) -> FitResult:
    """Write the checkpoints and the history of a trained run, and load its best weights, as a fit with a Trainer does.

    Args:
        trained: the outcome of training.
        prepared: the run; its model receives the best weights.
        loggers: Lightning loggers; they get the scores of each epoch.
    """
    config, run, table, model = prepared.config, prepared.run, prepared.data.table, prepared.model
    model.about = about(config, table, model)
    checkpoints, rows = callbacks.AtomicCheckpointIO(), trained.epochs.rows
    for name, state, epoch in (("best", trained.best, trained.best_epoch), ("last", trained.last, len(rows) - 1)):
        content = {
            "epoch": epoch,
            "global_step": rows[epoch]["step"],
            "pytorch-lightning_version": pl.__version__,
            "state_dict": state,
            "gmu_lightning": model.about,
        }
        if name == "last":
            content["optimizer_states"] = [trained.optimizer]
        checkpoints.save_checkpoint(content, run / f"checkpoints/{name}.ckpt")
    trained.epochs.write()
    model.load_state_dict(trained.best)
    warn_of_learning(run, trained.epochs, table, config.monitor)
    log_epochs(loggers, trained.epochs)
    predictions = callbacks.SplitPredictions(table, config.modalities)
    return FitResult(None, predictions, device_of(config.trainer), trained.best_epoch, len(rows), trained.seconds)
