"""Hydra's callback of a sweep. Hydra imports it early, so nothing heavy is imported here before a sweep ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gmu_lightning.files import now


class SweepFiles(Callback):
    """Remembers the sweep that is running; `command_line.call` ends it, for Hydra swallows what a callback raises at the end.

    Attributes:
        current: folder and start of the sweep that is running, for whoever interrupts it.
        planned: its jobs, as (folder, overrides); a folder that is not known before the job's turn is None.
    """

    current: ClassVar[tuple[Path, str] | None] = None
    planned: ClassVar[list[tuple[str | None, Sequence[str]]]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember where the sweep is."""
        if not config.get("check"):
            SweepFiles.current = (Path(config.hydra.sweep.dir).absolute(), now())

    @staticmethod
    def plan(jobs: Iterable[tuple[str | None, Sequence[str]]]) -> None:
        """What is about to be done."""
        SweepFiles.planned = list(jobs)

    @staticmethod
    def reached(folder: Path) -> None:
        """The turn of the next job whose folder was not known."""
        n = next((n for n, (known, _) in enumerate(SweepFiles.planned) if known is None), None)
        if n is not None:
            SweepFiles.planned[n] = (str(folder.absolute()), SweepFiles.planned[n][1])

    @staticmethod
    def waiting() -> list[Sequence[str]]:
        """The overrides of the planned jobs that nobody began."""
        return [
            overrides for folder, overrides in SweepFiles.planned if folder is None or not (Path(folder) / "status.json").exists()
        ]

    @staticmethod
    def end(interrupted: bool) -> bool:
        """Write the files of the running sweep, once; True if one of its jobs failed."""
        if SweepFiles.current is None:
            return False
        from gmu_lightning.sweep.files import write_sweep

        (folder, started), SweepFiles.current = SweepFiles.current, None
        return write_sweep(folder, started, interrupted, SweepFiles.waiting()) > 0
