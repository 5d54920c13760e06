"""Randomness as a function of (seed, epoch, batch, rank): no generator state has to be stored anywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from gmu_lightning.lightning import pl


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from numbers and words, the same on any machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


class Determinism(pl.Callback):
    """Seeds dropout and augmentation before every training batch, and lets encoders unfreeze at their epoch."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Unfreeze what is due."""
        for encoder in model.encoders.values():  # type: ignore[operator]
            encoder.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch's own randomness."""
        seed_generators(seed_of(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank), model.device)


def seed_generators(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does for the CPU and for `device`, without what it costs in every step.

    For each kind of accelerator that was never started, `torch.manual_seed` notes down where it was called from.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
