"""Change the gradients of an update before they are clipped, as the run's training method does."""

from __future__ import annotations

from typing import Any

import torch

from gmu_lightning.callbacks.determinism import seed_of
from gmu_lightning.lightning import pl


class Modulation(pl.Callback):
    """Change gradients once per update, from the scores of all its batches in all processes.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed, self.batch = seed, 0

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the number of the batch."""
        self.batch = batch_idx

    def on_before_optimizer_step(self, trainer: pl.Trainer, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Change the gradients. Scores and gradients are equal in all processes, so the noise must be too."""
        scores, model.seen = model.seen, None
        if not model.balance.is_active(trainer.current_epoch):
            return
        scores = trainer.strategy.reduce(scores, reduce_op="sum")
        generator = noise_generator(self.seed, trainer.current_epoch, self.batch, model.device)
        model.balance.modulate(scores, model.modality_gradients(), generator)


def noise_generator(seed: int, epoch: int, batch: int, device: torch.device) -> torch.Generator:
    """Return the generator of an update's noise, seeded from (seed, epoch, last batch). Other generators stay as they are."""
    return torch.Generator(device).manual_seed(seed_of(seed, epoch, batch, "gradient noise"))
