"""Turns within a run of `train`: +callbacks.clock._target_=tests.benchmarks.clock.Clock +callbacks.clock.movies=40"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from gmu_lightning.movie import MovieBatch
from tests.benchmarks.workers import Turns


class Clock(pl.Callback):
    """Tells `Turns` of every step: a turn begins where a batch has arrived, and ends where the one after its last has."""

    def __init__(self, movies: int, threads: int = 1):
        self.turns = Turns(movies, threads)

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """A boundary between steps."""
        self.turns.boundary(first=batch_idx == 0)
        self.turns.took(len(batch.ids), tokens_of(batch))


def tokens_of(batch: MovieBatch) -> int:
    """Real tokens of the texts."""
    mask = getattr(batch.inputs.get("text"), "mask", None)
    return 0 if mask is None else int(mask.sum())
