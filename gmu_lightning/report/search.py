"""What a search left in a sweep's folder -> its budget, its space, and what each setting's trials reached."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.run import Run
from gmu_lightning.run_files import records

FOLDER = "search"  # of a sweep: its trials, and search.json
STUDIES = "studies.log"  # beside the trials
BUDGET = ("trials", "space", "seed", "monitor")  # of search.json: what every setting was searched with


def searches(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every search that these runs' sweeps made, as a page tells it."""
    sweeps = dict.fromkeys(run.folder.absolute().parent for run in runs)
    return [_told(found) for folder in sweeps if (found := _search_of(folder))]


def is_trial(run: Run) -> bool:
    """Whether a run is a search's, which nobody judges on test."""
    return (run.folder.absolute().parent / STUDIES).exists()


def searched_keys(runs: Sequence[Run]) -> set[str]:
    """What a search chose for every one of these runs."""
    spaces = [set(found["space"]) if found else set() for found in _searches_of(runs)]
    keys = set.intersection(*spaces) if spaces else set()
    typed = [{override.partition("=")[0] for override in run.overrides} for run in runs]
    return keys if all(keys <= of for of in typed) else set()  # others may have been put into the search's folder since


def budget(runs: Sequence[Run]) -> tuple[str, str]:
    """What was tried before these runs of one setting were trained: how many trials, over which space."""
    if not searched_keys(runs):
        return "no trials", ""
    found = [search for search in _searches_of(runs) if search]
    return " or ".join(sorted({_trials(one) for one in found})), " or ".join(sorted({_space(one) for one in found}))


def trial_seed(run: Run) -> int | None:
    """The seed that tuned what a run's folder holds, which is no fresh one; None where nothing was searched."""
    found = _search_of(run.folder.absolute().parent)
    return found["seed"] if found else None


def _searches_of(runs: Sequence[Run]) -> list[dict[str, Any] | None]:
    return [_search_of(folder) for folder in dict.fromkeys(run.folder.absolute().parent for run in runs)]


def _search_of(sweep: Path) -> dict[str, Any] | None:
    path = sweep / FOLDER / "search.json"
    return records.none_if_gone(records.search, path, None)


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    about = f"{_trials(found)} of each setting, judged by {found['monitor']} with seed {found['seed']}. Space: {_space(found)}."
    settings = found["settings"]
    shared = set.intersection(*(set(one["overrides"]) for one in settings)) if len(settings) > 1 else set()
    return {"about": about, "rows": [_row(one, shared) for one in settings]}


def _trials(found: Mapping[str, Any]) -> str:
    return f"{found['trials']} trial{'' if found['trials'] == 1 else 's'}"


def _space(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_range(of)}" for key, of in found["space"].items())


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
