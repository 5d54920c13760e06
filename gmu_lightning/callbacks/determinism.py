"""Randomness as a function of (seed, epoch, batch, rank): no generator state has to be stored anywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import pytorch_lightning as pl
import torch


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
        torch.manual_seed(seed_of(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))
