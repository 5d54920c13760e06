"""Folders of runs and sweeps -> the runs that they hold, and what is there and cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gmu_lightning.movie import UserError
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run, read_json, runs_under

ENDED = ("finished", "failed", "interrupted", "skipped")


def runs_in(folders: Iterable[Path]) -> list[Run]:
    """The runs that these folders are or hold. Raises UserError where one is and holds none."""
    found: list[Run] = []
    for folder in folders:
        if not folder.exists():
            raise UserError(f"runs={folder} does not exist: give the folder of a run or a sweep")
        here = [Run(folder)] if (folder / "config.yaml").exists() else runs_under(folder)
        runs = [run for run in here if (run / "config.yaml").exists()]
        if not runs:
            sweeps = ", ".join(run.folder.name for run in here[:3])
            of = f"it holds sweeps ({sweeps}): give one of them" if sweeps else "give the folder of a run or a sweep"
            raise UserError(f"{folder} holds no run: {of}, or several with commas")
        if trial := next(filter(is_trial, runs), None):
            sweep = trial.folder.absolute().parent.parent
            raise UserError(f"{folder} holds trials of a search, among which val chose: compare what they led to, runs={sweep}")
        found += runs
    return found


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    status = folder / "status.json"
    return status.exists() and "jobs" in read_json(status)


def left_in(folders: Iterable[Path]) -> list[tuple[str, str]]:
    """(folder, why) of what a training run left here and nobody can read: it did not end, or lacks a file."""
    found = []
    for folder in folders:
        inside = [folder] if (folder / "config.yaml").exists() else sorted(path for path in folder.glob("*") if path.is_dir())
        for path in inside:
            if not any((path / name).exists() for name in ("config.yaml", "status.json", "metrics.json")):
                continue
            if is_sweep(path):
                found.append((str(path), "it is a sweep, which is compared if it is named too"))
                continue
            lacking = [name for name in ("config.yaml", "status.json") if not (path / name).exists()]
            if lacking:
                found.append((str(path), f"it lacks {' and '.join(lacking)}"))
            elif Run(path).status.get("state") not in ENDED:
                found.append((str(path), "it did not end"))
    return found
