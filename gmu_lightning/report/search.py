"""What a search left in a sweep's folder -> its budget, its space, and what each setting's trials reached."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.run import Run, read_json

FOLDER = "search"  # of a sweep: its trials, and search.json
STUDIES = "studies.log"  # beside the trials


def searches(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every search that these runs' sweeps made, as a page tells it."""
    sweeps = dict.fromkeys(run.folder.absolute().parent for run in runs)
    return [_told(read_json(path)) for folder in sweeps if (path := _file(folder)).exists()]


def is_trial(run: Run) -> bool:
    """Whether a run is a search's, which nobody judges on test."""
    return (run.folder.absolute().parent / STUDIES).exists()


def searched_keys(runs: Sequence[Run]) -> set[str]:
    """What a search chose for every one of these runs."""
    files = dict.fromkeys(_file(run.folder.absolute().parent) for run in runs)
    spaces = [set(read_json(path)["space"]) if path.exists() else set() for path in files]
    keys = set.intersection(*spaces) if spaces else set()
    typed = [{override.partition("=")[0] for override in run.overrides} for run in runs]
    return keys if all(keys <= of for of in typed) else set()  # others may have been put into the search's folder since


def _file(sweep: Path) -> Path:
    return sweep / FOLDER / "search.json"


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    space = ", ".join(f"{key}: {_range(of)}" for key, of in found["space"].items())
    about = f"{found['trials']} trials of each setting, judged by {found['monitor']} with seed {found['seed']}. Space: {space}."
    shared = set.intersection(*(set(one["overrides"]) for one in found["settings"]))
    return {"about": about, "rows": [_row(one, shared) for one in found["settings"]]}


def _range(of: Mapping[str, Any]) -> str:
    if of.get("choices"):
        return " or ".join(map(str, of["choices"]))
    return f"{of['low']:g} to {of['high']:g}" + (", logarithmic" if of.get("log") else "")


def _row(one: Mapping[str, Any], shared: set[str]) -> dict[str, Any]:
    scores = [trial["score"] for trial in one["trials"] if trial["score"] is not None]
    best = ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in (one["best"] or {}).items()
    )
    return {
        "name": " ".join(word for word in one["overrides"] if word not in shared) or "the setting",
        "count": len(scores),
        "lowest": min(scores, default=None),
        "median": statistics.median(scores) if scores else None,
        "highest": max(scores, default=None),
        "best": best or one["why_not"] or "none finished",
    }
