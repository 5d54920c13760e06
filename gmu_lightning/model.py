"""The model: encode each modality, normalise, fuse, classify. Two models differ in their parts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.balance import PlainTraining, Split
from gmu_lightning.decisions import Task
from gmu_lightning.encoders.base import Encoder, moved
from gmu_lightning.fusion.base import Fusion, blanked
from gmu_lightning.fusion.heads import LinearHead
from gmu_lightning.lightning import MeanMetric, pl
from gmu_lightning.movie import Features, Fused, MovieBatch, Prediction, UserError
from gmu_lightning.nn import normalise
from gmu_lightning.nn.dropout import Dropout
from gmu_lightning.optimisation import parameter_groups


class MovieGenreClassifier(pl.LightningModule):
    """Predict genre logits from the inputs of each modality.

    Args:
        encoders: one per modality, in the order of `modalities=`. An encoder with cached features is never built, since its
            features arrive in the batch.
        fusion: fuses {modality: (B, d_m)}.
        genres: C, the number of genres.
        loss: takes logits (B, C) and targets (B, C), and returns a scalar.
        task: of the labels.
        optimizer: takes parameter groups as `params`, and `lr`, and returns an optimizer. None for evaluation alone.
        scheduler: takes `optimizer` and `total_steps`, and returns one torch schedule or a list. A schedule is stepped after
            each update, a plateau after each epoch. None keeps the rates constant.
        lr: learning rate. An encoder may have its own, and a fusion scales it.
        weight_decay: of weight matrices.
        total_steps: returns the number of updates of the whole run; called when the optimizer is made.
        monitor: the score that a plateau observes.
        balance: training method, which may balance the modalities. None trains on the loss of the fused prediction alone.

    Attributes:
        about: set from outside, and added to each checkpoint.
        plateaus: schedules that a callback steps after each epoch by the monitored score.
        seen: scores (M, 2) of the batches since the last update, for a training method that changes gradients; None without any.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: Fusion,
        genres: int,
        loss: nn.Module,
        task: Task = "multilabel",
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        total_steps: Callable[[], int] = lambda: 1,
        monitor: str = "val/ap_micro",
        balance: PlainTraining | None = None,
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.normalisers = nn.ModuleDict({m: normalise.make(e.normalise, e.dim) for m, e in encoders.items()})
        self.dropouts = nn.ModuleDict({m: Dropout(e.dropout) for m, e in encoders.items()})
        self.fusion = fusion
        # A fusion of the user's may have a head for multilabel tasks alone, without the argument `task`.
        self.head = fusion.head(genres) if task == "multilabel" else fusion.head(genres, task)
        self.loss, self.task = loss, task
        self.balance = PlainTraining() if balance is None else balance
        self.seen: Tensor | None = None
        self.modality_dropout = tuple(e.modality_dropout for e in encoders.values())
        self.optimizer, self.scheduler = optimizer, scheduler
        self.lr, self.weight_decay, self.total_steps, self.monitor = lr, weight_decay, total_steps, monitor
        self.train_loss = MeanMetric()
        self.about: dict[str, Any] = {}
        self.plateaus: list[torch.optim.lr_scheduler.ReduceLROnPlateau] = []

    def forward(self, batch: MovieBatch, split: bool = False) -> Prediction | Split:
        """Return logits (B, C). In evaluation mode, an additive model adds exact contributions (B, M, C), and its gates if any.

        Logits with contributions are float64 (float32 on mps), as the contributions are.

        Args:
            batch: B movies.
            split: True returns a `Split`, which has the logits of each modality by itself.

        Raises:
            UserError: `split` is True, and the fusion or its head has no such logits.
        """
        kept = self._after_modality_dropout(batch.present)  # (B, M)
        fused = self.fusion(self.read(batch, kept), kept)
        if split:
            return Split(self.head(fused), self._unimodal(fused, kept), kept)
        contributions = self.head.contributions(fused) if isinstance(self.head, LinearHead) and not self.training else None
        if contributions is None:
            return Prediction(self.head(fused))
        # Sum the contributions, so that they and the logits agree to the last digit in any precision of the network.
        return Prediction(cast(Tensor, self.head.bias) + contributions.sum(dim=1), contributions, fused.gates)

    def read(self, batch: MovieBatch, kept: Tensor) -> dict[str, Any]:
        """Return the inputs of the fusion, encoded and normalised.

        Args:
            kept: (B, M) bool, the modalities that the fusion is to see.
        """
        return self.fusion.read(self.encoders, batch, kept, self._normalised)

    def _unimodal(self, fused: Fused, kept: Tensor) -> Tensor:
        """Return the logits of each modality by itself, (B, M, C). Raises UserError if there are none."""
        unimodal: Callable[[Fused, Tensor], Tensor | None] | None = getattr(self.head, "unimodal", None)
        own = None if unimodal is None else unimodal(fused, kept)
        if own is None:
            raise UserError(
                f"{type(self.balance).__name__} reads logits of single modalities, and {type(self.fusion).__name__} gives none: "
                "return `parts` from its `fuse` with a LinearHead, or write `unimodal = False` into the class"
            )
        return own

    def _normalised(self, modality: str, feature: Features, there: Tensor) -> Features:
        """Normalise a modality's features and apply dropout: to the tokens if the fusion reads them, otherwise to the vector.

        A vector beside tokens stays unchanged, since one scale cannot fit two distributions. Tokens of absent movies are masked.
        """
        scale, dropout = self.normalisers[modality], self.dropouts[modality]
        vector = blanked(feature.vector, there[:, None])  # (B, d_m); NaN in a row would make a normaliser's gradient NaN
        if feature.sequence is None or not self.fusion.reads_tokens(modality):
            return Features(dropout(scale(vector, there)))
        full = torch.ones(feature.sequence.shape[:2], dtype=torch.bool, device=vector.device)
        mask = (full if feature.mask is None else feature.mask) & there[:, None]  # (B, T)
        tokens = torch.where(mask[..., None], feature.sequence, 0.0)  # (B, T, d_m)
        scaled = scale(tokens.flatten(0, 1), mask.flatten()).unflatten(0, mask.shape)
        return Features(vector, dropout(scaled), mask)

    def _after_modality_dropout(self, present: Tensor) -> Tensor:
        """Return the modalities that stay, (B, M) bool.

        In training, each modality is dropped with its own probability. A movie that would lose all modalities keeps them all.
        """
        if not self.training or not any(self.modality_dropout):
            return present
        rates = torch.tensor(self.modality_dropout, device=present.device)
        kept = present & (torch.rand(present.shape, device=present.device) >= rates)
        return torch.where(kept.any(dim=1, keepdim=True), kept, present)

    def transfer_batch_to_device(self, batch: MovieBatch, device: torch.device, dataloader_idx: int) -> MovieBatch:
        """Return the batch on `device`. Lightning's own method would also visit each movie's id in every step."""
        if batch.present.device == device:
            return batch
        inputs = {m: moved(x, device) for m, x in batch.inputs.items()}
        labels = None if batch.labels is None else moved(batch.labels, device)
        return MovieBatch(batch.ids, inputs, moved(batch.present, device), labels, batch.weight)

    def training_step(self, batch: MovieBatch, _index: int) -> Tensor:
        """Return the mean loss of the batch times its weight, and add the mean loss to `train_loss`."""
        loss, scores = self.losses(self(batch, split=self.balance.splits), cast(Tensor, batch.labels))
        if self.balance.modulates:
            scores = scores if batch.weight else torch.zeros_like(scores)  # a repeated batch has weight 0
            self.seen = scores if self.seen is None else self.seen + scores
        self.train_loss.update(loss.detach(), weight=len(batch.ids) if batch.weight else 0)
        return loss if batch.weight == 1.0 else loss * batch.weight

    def losses(self, found: Prediction | Split, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss that is minimised, and the scores by which the training method changes gradients.

        Args:
            found: output of the model for a batch.
            targets: (B, C).
        """
        return self.balance.loss(self.loss, found, targets), self.balance.scores(found, targets, self.task)

    def modality_weights(self) -> list[list[str]]:
        """Return for each modality the names of the trained matrices and kernels that serve it alone.

        They are those of its encoder, of its normaliser, and of the fusion's modules that are named after it, such as
        `hidden.text`. Biases and other vectors are left out.
        """
        found: dict[str, list[str]] = {m: [] for m in self.encoders}
        frozen = {m for m, encoder in self.encoders.items() if encoder.freeze == "all" and encoder.unfreeze_at_epoch is None}
        for name, parameter in self.named_parameters():
            part, *path = name.split(".")
            served = [m for m in found if m in (path if part == "fusion" else path[:1])]
            if part != "head" and parameter.ndim > 1 and len(served) == 1 and not (part == "encoders" and served[0] in frozen):
                found[served[0]].append(name)
        return list(found.values())

    def modality_gradients(self) -> list[list[Tensor]]:
        """Return for each modality the gradients of its `modality_weights`, as far as they have any."""
        known = dict(self.named_parameters())
        return [[g for name in names if (g := known[name].grad) is not None] for names in self.modality_weights()]

    def validation_step(self, batch: MovieBatch, _index: int) -> Prediction:  # type: ignore[override]
        """Return the prediction. A callback computes scores over the whole split."""
        return self(batch)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and its schedules with the interval of their steps, as Lightning expects them.

        Return the optimizer alone if there is no scheduler, and None if there is no optimizer. Keep plateaus in `plateaus`.
        """
        if self.optimizer is None:
            return None
        optimizer = self.optimizer(params=self.parameter_groups(), lr=self.lr)
        if self.scheduler is None:
            return optimizer
        made = self.scheduler(optimizer=optimizer, total_steps=self.total_steps())
        schedules = made if isinstance(made, list) else [made]
        self.plateaus = [s for s in schedules if isinstance(s, torch.optim.lr_scheduler.ReduceLROnPlateau)]
        return [optimizer], [{"scheduler": s, "interval": "step"} for s in schedules if s not in self.plateaus]

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients, also for a fused optimizer in bfloat16, which Lightning refuses although its gradients are unscaled."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not gradient_clip_val or scaled or gradient_clip_algorithm not in (None, "norm"):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # A CPU skips the multiplication of all gradients by 1. A GPU does it, since reading the norm would wait for the GPU.
        if norm.device.type != "cpu" or norm > gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups. Biases and norms have no weight decay, and encoders may have their own rate.

        Constant encoders have no group. The rate of the fusion is `lr` times its `lr_scale`.
        """
        trained = [cast(Encoder, e) for e in self.encoders.values() if not e.constant]
        rates: list[tuple[nn.Module, float]] = [(e, e.lr or self.lr) for e in trained]
        rates += [(self.normalisers, self.lr), (self.fusion, self.lr * self.fusion.lr_scale), (self.head, self.lr)]
        return parameter_groups(rates, self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add `about` to a checkpoint as `gmu_lightning`: genres, modalities and configuration, as plain containers."""
        checkpoint["gmu_lightning"] = self.about

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state without the weights of frozen networks, which are loaded from their own files."""
        return {key: value for key, value in super().state_dict(*args, **kwargs).items() if not self._reloads(key)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state that `state_dict` returned. Return the missing and the unexpected keys.

        Missing keys of frozen networks are ignored. Raises RuntimeError if there are others and `strict` is True.
        """
        missing, unexpected = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in missing if not self._reloads(key)]
        if strict and (missing or unexpected):
            raise RuntimeError(f"the checkpoint is of another model: missing {missing[:5]}, unexpected {unexpected[:5]}")
        return missing, unexpected

    def _reloads(self, key: str) -> bool:
        """Return whether a key of the state is a weight that its encoder reads from the pretrained network's own file."""
        part, _, rest = key.partition(".")
        modality, _, weight = rest.partition(".")
        return part == "encoders" and cast(Encoder, self.encoders[modality]).reloads(weight)
