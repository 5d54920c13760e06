"""Callbacks of a run: checkpoints, seeds per batch, changed gradients, history.csv, predictions and progress lines."""

from gmu_lightning.callbacks.checkpoints import BEST, LAST, PREVIOUS, AtomicCheckpointIO, Checkpoints
from gmu_lightning.callbacks.determinism import Determinism
from gmu_lightning.callbacks.history import EpochLines, Epochs, History, loss_of, train_share_scores, val_scores
from gmu_lightning.callbacks.interruption import Interruption, SafelyStopped
from gmu_lightning.callbacks.modulation import Modulation, noise_generator
from gmu_lightning.callbacks.plateau import Plateau
from gmu_lightning.callbacks.predictions import SplitPredictions

__all__ = [
    "BEST",
    "LAST",
    "PREVIOUS",
    "AtomicCheckpointIO",
    "Checkpoints",
    "Determinism",
    "EpochLines",
    "Epochs",
    "History",
    "Interruption",
    "Modulation",
    "Plateau",
    "SafelyStopped",
    "SplitPredictions",
    "loss_of",
    "noise_generator",
    "train_share_scores",
    "val_scores",
]
