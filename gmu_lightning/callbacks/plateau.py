"""Lower the learning rate on a plateau of the monitored score."""

from __future__ import annotations

from typing import Any

from gmu_lightning.callbacks.history import History
from gmu_lightning.lightning import pl


class Plateau(pl.Callback):
    """Step the model's plateau schedules after each epoch.

    Lightning would step them after the epoch's checkpoint is saved, so that a resumed run would lack a step.

    Args:
        history: gives the epoch's scores. It must stand before this callback in the trainer's list.
        monitor: such as `val/ap_micro`.
    """

    def __init__(self, history: History, monitor: str):
        self.history, self.monitor = history, monitor
        self._schedules: list[Any] = []
        self._loaded: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Find the schedules of the model, and give them their saved states."""
        self._schedules = model.plateaus
        for schedule, state in zip(self._schedules, self._loaded, strict=False):
            schedule.load_state_dict(state)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Step the schedules by the epoch's score."""
        for schedule in self._schedules:
            schedule.step(self.history.epochs.scores[-1][self.monitor])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedules."""
        return {"schedules": [schedule.state_dict() for schedule in self._schedules]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the training starts, because the schedules are made after checkpoints are loaded."""
        self._loaded = state_dict["schedules"]
