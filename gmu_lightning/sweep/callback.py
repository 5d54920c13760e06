"""Hydra's callback of a sweep. Hydra imports it early, so nothing heavy is imported here before a sweep ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gmu_lightning.files import now


class SweepFiles(Callback):
    """Writes the sweep's files at its end, failed jobs or not; the exit code is 1 if a job failed."""

    current: tuple[Path, str] | None = None  # folder and start of the sweep that is running, for whoever interrupts it

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember where the sweep is."""
        if not config.get("check"):
            SweepFiles.current = (Path(config.hydra.sweep.dir).absolute(), now())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Files, table, exit code. Hydra swallows an ordinary exception here, SystemExit it does not."""
        if config.get("check"):
            from gmu_lightning.sweep.plan import Plans

            Plans.show()
            return
        if SweepFiles.end(interrupted=False):
            raise SystemExit(1)

    @staticmethod
    def end(interrupted: bool) -> bool:
        """Write the files of the running sweep, once; True if a job failed."""
        if SweepFiles.current is None:
            return False
        from gmu_lightning.sweep.files import write_sweep

        (folder, started), SweepFiles.current = SweepFiles.current, None
        return bool(write_sweep(folder, started, interrupted)["failed"])
