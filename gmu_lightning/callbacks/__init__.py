"""Callbacks of a run: checkpoints, seeds per batch, history.csv, predictions and progress lines."""

from gmu_lightning.callbacks.checkpoints import AtomicCheckpointIO, best_and_last
from gmu_lightning.callbacks.determinism import Determinism
from gmu_lightning.callbacks.history import EpochLines, Epochs, History, loss_of, train_share_scores, val_scores
from gmu_lightning.callbacks.predictions import SplitPredictions

__all__ = [
    "AtomicCheckpointIO",
    "Determinism",
    "EpochLines",
    "Epochs",
    "History",
    "SplitPredictions",
    "best_and_last",
    "loss_of",
    "train_share_scores",
    "val_scores",
]
