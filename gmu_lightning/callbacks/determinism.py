"""Make randomness a function of (seed, epoch, batch, rank), so that a resumed run needs no stored generator state."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from gmu_lightning.lightning import pl


def seed_of(*parts: int | str) -> int:
    """Return a seed from 0 to 2^63 - 1. It depends on the given numbers and words alone, and is the same on every machine."""
    plain = tuple(str(part) if isinstance(part, str) else int(part) for part in parts)  # NumPy has other reprs
    return int.from_bytes(hashlib.sha256(repr(plain).encode()).digest()[:8], "little") >> 1


class Determinism(pl.Callback):
    """Seed dropout and augmentation before every training batch, and unfreeze encoders at their epoch.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Unfreeze encoders as in an epoch's start, which Lightning leaves out where a run continues within an epoch."""
        self.on_train_epoch_start(trainer, model)

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Unfreeze the encoders whose `unfreeze_at_epoch` has come. Epochs count from 0."""
        for encoder in model.encoders.values():  # type: ignore[operator]
            encoder.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch's generators from (seed, epoch, batch, rank). All but the seed count from 0."""
        seed_generators(seed_of(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank), model.device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generator of the CPU and, if `device` is a CUDA device, those of every CUDA device.

    The state is the same as after `torch.manual_seed`, which takes longer: it records a stack trace for each kind of accelerator
    that was not started yet. For another kind of device, call `torch.manual_seed`. The generators of Python and NumPy stay.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
