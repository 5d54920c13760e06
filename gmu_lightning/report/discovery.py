"""Find the runs in folders of runs and sweeps, and report unreadable ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gmu_lightning.movie import UserError
from gmu_lightning.report.gates import damaged_studies
from gmu_lightning.report.scoring import check_comparable
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run, runs_under
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged, is_there

ENDED = ("finished", "failed", "interrupted", "skipped")
Left = list[tuple[str, str]]


def runs_in(folders: Iterable[Path]) -> list[Run]:
    """Return the runs in these folders, each a run or a folder of runs; those of a folder are sorted by name.

    Raises:
        UserError: a folder does not exist, holds no run, or holds trials of a search.
    """
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


def readable(runs: Iterable[Run], check: Callable[[Run], None] = check_comparable) -> tuple[list[Run], Left]:
    """Return the readable runs, and (folder, reason) of the others.

    Args:
        check: reads the required files and raises UserError for a damaged one.
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
    """Return the readable runs in these folders, and (folder, reason) of damaged runs and studies.

    Raises:
        UserError: a folder has no runs, or none is readable.
    """
    runs, left = readable(runs_in(folders))
    if not runs:
        raise UserError(left[0][1] if len(left) == 1 else f"none of {len(left)} runs can be read; the first: {left[0][1]}")
    return runs, [*left, *((str(path), why) for run in runs for path, why in damaged_studies(run))]


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is a sweep's. Raises UserError for a damaged status.json."""
    status = folder / "status.json"
    return is_there(status) and "jobs" in records.sweep_status(status)


def left_in(folders: Iterable[Path]) -> Left:
    """Return (folder, reason) of incomplete training runs: unended ones, and those that lack a file."""
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
