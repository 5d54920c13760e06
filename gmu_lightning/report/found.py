"""Folders of runs and sweeps -> the runs that they hold, and what is there and cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gmu_lightning.movie import UserError
from gmu_lightning.report.evidence import check_evidence
from gmu_lightning.report.faithfulness import damaged_studies
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run, runs_under
from gmu_lightning.run_files import records
from gmu_lightning.run_files.content import Damaged, is_there

ENDED = ("finished", "failed", "interrupted", "skipped")
Left = list[tuple[str, str]]


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


def readable(runs: Iterable[Run], check: Callable[[Run], None] = check_evidence) -> tuple[list[Run], Left]:
    """Return the runs whose files can be read, and (folder, why) of the others.

    Args:
        check: reads the files that matter, and raises UserError where one is damaged.
    """
    sound, left = [], Left()
    for run in runs:
        try:
            check(run)
        except UserError as error:
            left.append((str(run.folder), str(error)))
        else:
            sound.append(run)
    return sound, left


def readable_runs_in(folders: Sequence[Path]) -> tuple[list[Run], Left]:
    """Return what `runs_in` and `readable` give, damaged studies told too. Raises UserError where no run can be read."""
    runs, left = readable(runs_in(folders))
    if not runs:
        raise UserError(left[0][1] if len(left) == 1 else f"none of {len(left)} runs can be read; the first: {left[0][1]}")
    return runs, [*left, *((str(path), why) for run in runs for path, why in damaged_studies(run))]


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's. Raises UserError where its status.json is damaged."""
    status = folder / "status.json"
    return is_there(status) and "jobs" in records.sweep_status(status)


def left_in(folders: Iterable[Path]) -> Left:
    """(folder, why) of what a training run left here and nobody can read: it did not end, or lacks a file."""
    found = Left()
    for folder in folders:
        inside = [folder] if (folder / "config.yaml").exists() else sorted(path for path in folder.glob("*") if path.is_dir())
        for path in inside:
            try:
                why = _why_left(path)
            except Damaged as error:
                why = None if (path / "config.yaml").exists() else str(error)  # `readable` names a run's
            if why:
                found.append((str(path), why))
    return found


def _why_left(path: Path) -> str | None:
    if not any((path / name).exists() for name in ("config.yaml", "status.json", "metrics.json")):
        return None
    if is_sweep(path):
        return "it is a sweep, which is compared if it is named too"
    lacking = [name for name in ("config.yaml", "status.json") if not (path / name).exists()]
    if lacking:
        return f"it lacks {' and '.join(lacking)}"
    return None if Run(path).status.get("state") in ENDED else "it did not end"
