"""Read the search of a sweep's folder: its budget, its space, and the scores of each setting's trials."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.run import Run
from gmu_lightning.run_files import records

FOLDER = "search"  # of a sweep: its trials, and search.json
STUDIES = "studies.log"  # beside the trials
BUDGET = ("trials", "space", "seed", "monitor")  # in search.json: equal for all settings


def searches(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return for the page {`about`: a sentence, `rows`: one per setting} for each search in these runs' sweeps."""
    return [_summary(found) for found in _searches_of(runs) if found]


def is_trial(run: Run) -> bool:
    """Whether a run is a trial of a search."""
    return (run.folder.absolute().parent / STUDIES).exists()


def searched_keys(runs: Sequence[Run]) -> set[str]:
    """Return the keys that a search chose for all of these runs; none if a run did not type them all."""
    spaces = [set(found["space"]) if found else set() for found in _searches_of(runs)]
    keys = set.intersection(*spaces) if spaces else set()
    typed = [{override.partition("=")[0] for override in run.overrides} for run in runs]
    return keys if all(keys <= of for of in typed) else set()  # later runs may share the folder of a search


def budget(runs: Sequence[Run]) -> tuple[str, str]:
    """Return the number of trials and the search space behind one setting's runs, as text; the space is empty without one."""
    if not searched_keys(runs):
        return "no trials", ""
    found = [search for search in _searches_of(runs) if search]
    return " or ".join(sorted({_trials(one) for one in found})), " or ".join(sorted({_space(one) for one in found}))


def trial_seed(run: Run) -> int | None:
    """Return the seed of the search in a run's sweep; None without a search."""
    found = _search_of(run.folder.absolute().parent)
    return found["seed"] if found else None


def _searches_of(runs: Sequence[Run]) -> list[dict[str, Any] | None]:
    return [_search_of(folder) for folder in dict.fromkeys(run.folder.absolute().parent for run in runs)]


def _search_of(sweep: Path) -> dict[str, Any] | None:
    return records.none_if_gone(records.search, sweep / FOLDER / "search.json", None)


def _summary(found: Mapping[str, Any]) -> dict[str, Any]:
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
