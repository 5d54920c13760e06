"""What a run records while it trains."""

from gmu_lightning.callbacks.checkpoints import AtomicCheckpointIO, best_and_last
from gmu_lightning.callbacks.determinism import Determinism
from gmu_lightning.callbacks.history import Epochs, History, train_share_scores, val_scores
from gmu_lightning.callbacks.predictions import SplitPredictions
from gmu_lightning.callbacks.progress import EpochLines

__all__ = [
    "AtomicCheckpointIO",
    "Determinism",
    "EpochLines",
    "Epochs",
    "History",
    "SplitPredictions",
    "best_and_last",
    "train_share_scores",
    "val_scores",
]
