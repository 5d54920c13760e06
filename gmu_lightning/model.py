"""The one model: encode each modality, normalise, fuse, classify. What differs between two models is in its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmu_lightning.encoders import normalise
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.dropout import Dropout
from gmu_lightning.encoders.inputs import moved
from gmu_lightning.fusion.base import Fusion
from gmu_lightning.fusion.heads import LinearHead
from gmu_lightning.lightning import MeanMetric, pl
from gmu_lightning.movie import Features, Fused, MovieBatch, Prediction
from gmu_lightning.optimisation import parameter_groups


class MovieGenreClassifier(pl.LightningModule):
    """{modality: inputs} -> genre logits.

    Args:
        encoders: one per modality, in the order of `modalities=`. One that is constant and cached is never built:
            its features arrive in the batch.
        fusion: over {modality: (B, d_m)}.
        genres: how many, C.
        loss: (logits (B, C), targets (B, C)) -> scalar.
        optimizer: parameter groups -> optimizer; `lr` is the rate of all but the encoders that bring their own.
        scheduler: (optimizer, total_steps=) -> one torch schedule or a list; stepped per update, a plateau's per epoch.
        total_steps: gives the updates of the whole run, asked when the optimizer is made.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: Fusion,
        genres: int,
        loss: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        total_steps: Callable[[], int] = lambda: 1,
        monitor: str = "val/ap_micro",
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.normalisers = nn.ModuleDict({m: normalise.make(e.normalise, e.dim) for m, e in encoders.items()})
        self.dropouts = nn.ModuleDict({m: Dropout(e.dropout) for m, e in encoders.items()})
        self.fusion = fusion
        self.head = fusion.head(genres)
        self.loss = loss
        self.modality_dropout = tuple(e.modality_dropout for e in encoders.values())
        self.optimizer, self.scheduler = optimizer, scheduler
        self.lr, self.weight_decay, self.total_steps, self.monitor = lr, weight_decay, total_steps, monitor
        self.train_loss = MeanMetric()
        self.about: dict[str, Any] = {}

    def forward(self, batch: MovieBatch) -> Prediction:
        """Logits (B, C); in evaluation also the exact contributions (B, M, C) and gates (B, M, D), where there are any."""
        present = self._after_modality_dropout(batch.present)  # (B, M)
        if self.fusion.needs == "tokens":  # modalities meet inside the encoder, so what is dropped must not enter it
            batch = batch._replace(present=present)
        features = self.fusion.encode(self.encoders, batch, self._normalised)
        inputs = features if self.fusion.needs == "sequence" else {m: feature.vector for m, feature in features.items()}
        fused = self.fusion(inputs, present)
        contributions = None if self.training else self._contributions(fused)
        if contributions is None:
            return Prediction(self.head(fused))
        # The same logits, summed as they are split: so they agree to the last digit in any precision of the network.
        return Prediction(cast(Tensor, self.head.bias) + contributions.sum(dim=1), contributions, fused.gates)

    def _normalised(self, modality: str, feature: Features, there: Tensor) -> Features:
        """What the fusion reads, scaled and dropped out: the vector, or tokens, none of them real where the modality is absent.

        A vector that stands beside tokens stays as it is: one scale does not learn two distributions.
        """
        scale, dropout = self.normalisers[modality], self.dropouts[modality]
        vector = torch.where(there[:, None], feature.vector, 0.0)  # (B, d_m); NaN would spoil a normaliser's gradient
        if self.fusion.needs == "vector" or feature.sequence is None:
            return Features(dropout(scale(vector, there)))
        full = torch.ones(feature.sequence.shape[:2], dtype=torch.bool, device=vector.device)
        mask = (full if feature.mask is None else feature.mask) & there[:, None]  # (B, T)
        tokens = torch.where(mask[..., None], feature.sequence, 0.0)  # (B, T, d_m)
        scaled = scale(tokens.flatten(0, 1), mask.flatten()).unflatten(0, mask.shape)
        return Features(vector, dropout(scaled), mask)

    def _contributions(self, fused: Fused) -> Tensor | None:
        return self.head.contributions(fused) if isinstance(self.head, LinearHead) else None

    def _after_modality_dropout(self, present: Tensor) -> Tensor:
        """In training each modality is taken away with its own probability, but never a movie's last one."""
        if not self.training or not any(self.modality_dropout):
            return present
        rates = torch.tensor(self.modality_dropout, device=present.device)
        kept = present & (torch.rand(present.shape, device=present.device) >= rates)
        return torch.where(kept.any(dim=1, keepdim=True), kept, present)

    def transfer_batch_to_device(self, batch: MovieBatch, device: torch.device, dataloader_idx: int) -> MovieBatch:
        """The batch on `device`. Lightning's own walks through all that a batch holds, each movie's id too, in every step."""
        if batch.present.device == device:
            return batch
        inputs = {m: moved(x, device) for m, x in batch.inputs.items()}
        labels = None if batch.labels is None else moved(batch.labels, device)
        return MovieBatch(batch.ids, inputs, moved(batch.present, device), labels)

    def training_step(self, batch: MovieBatch, _index: int) -> Tensor:
        """Mean loss of the batch."""
        loss = self.loss(self(batch).logits, batch.labels)
        self.train_loss.update(loss.detach(), weight=len(batch.ids))
        return loss

    def validation_step(self, batch: MovieBatch, _index: int) -> Prediction:  # type: ignore[override]
        """The prediction; scores are computed over the whole split, by a callback."""
        return self(batch)

    def configure_optimizers(self) -> Any:
        """AdamW groups: no decay on biases and norms; an encoder with its own rate has its own groups."""
        if self.optimizer is None:
            return None
        optimizer = self.optimizer(self.parameter_groups(), lr=self.lr)
        if self.scheduler is None:
            return optimizer
        made = self.scheduler(optimizer, total_steps=self.total_steps())
        return [optimizer], [self._stepped(schedule) for schedule in (made if isinstance(made, list) else [made])]

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Also for a fused optimizer in bfloat16, which Lightning would not clip although nothing scaled its gradients."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not gradient_clip_val or scaled or gradient_clip_algorithm not in (None, "norm"):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # On a CPU a product of all gradients with 1 is not worth a pass over them; a GPU is not asked what it found.
        if norm.device.type != "cpu" or norm > gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is given."""
        trained = [cast(Encoder, e) for e in self.encoders.values() if not e.constant]
        rates: list[tuple[nn.Module, float]] = [(e, e.lr or self.lr) for e in trained]
        rates += [(module, self.lr) for module in (self.normalisers, self.fusion, self.head)]
        return parameter_groups(rates, self.weight_decay)

    def _stepped(self, schedule: Any) -> dict[str, Any]:
        plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
        when = {"interval": "epoch", "monitor": self.monitor} if plateau else {"interval": "step"}
        return {"scheduler": schedule, **when}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a reader needs to use the weights, `about`, as plain containers: genres, modality order, configuration."""
        checkpoint["gmu_lightning"] = self.about

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """All that training changed: a frozen encoder's weights are where they were found, not in every checkpoint."""
        state = super().state_dict(*args, **kwargs)
        constant = tuple(f"encoders.{m}." for m, e in self.encoders.items() if e.constant)
        return {key: value for key, value in state.items() if not key.startswith(constant)} if constant else state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The inverse of `state_dict`: what it left out may be absent, and nothing else."""
        missing, unexpected = super().load_state_dict(state_dict, strict=False, assign=assign)
        constant = tuple(f"encoders.{m}." for m, e in self.encoders.items() if e.constant)
        missing = [key for key in missing if not (constant and key.startswith(constant))]
        if strict and (missing or unexpected):
            raise RuntimeError(f"the checkpoint is of another model: missing {missing[:5]}, unexpected {unexpected[:5]}")
        return missing, unexpected
