"""A setting that is searched, and what its trials reached."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gmu_lightning.run import Run


@dataclass
class Setting:
    """One member of the cross product, seeds aside, and what its trials reached."""

    overrides: tuple[str, ...]
    study: Any
    asked: list[tuple[Any, tuple[str, ...]]] = field(default_factory=list)  # trials that wait for their score
    senseless: str | None = None  # why it cannot be trained at all
    failure: str = ""  # why its last trial failed


def suggested(trial: Any, key: str, of: Mapping[str, Any]) -> Any:
    """What Optuna suggests to a trial for one key of the space, which has choices or a range."""
    if of.get("choices"):
        return trial.suggest_categorical(key, list(of["choices"]))
    if isinstance(of["low"], int) and isinstance(of["high"], int):
        return trial.suggest_int(key, of["low"], of["high"], log=bool(of.get("log")))
    return trial.suggest_float(key, float(of["low"]), float(of["high"]), log=bool(of.get("log")))


def text_of(value: Any) -> str:
    """Four digits of a number are enough, and read well in a leaderboard."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool) else str(value)


def score_of(run: Run) -> float | None:
    """The monitored score of val at the best epoch; None where there is none."""
    if run.status.get("state") != "finished":
        return None
    found = run.metrics.get(str(run.config["monitor"]))
    return None if found is None or math.isnan(found) else float(found)


def scores_of(one: Setting) -> list[float]:
    """Of its trials that have one."""
    return [t.value for t in one.study.get_trials(deepcopy=False) if t.value is not None]


def has_ended(one: Setting) -> bool:
    """Whether there is a winner, or a reason why there cannot be one."""
    return bool(one.senseless or scores_of(one))


def best_of(one: Setting) -> str:
    """The best trial and its values, in words; nothing where no trial has a score."""
    scores = scores_of(one)
    if not scores:
        return ""
    params = ", ".join(f"{key}={text_of(value)}" for key, value in one.study.best_trial.params.items())
    return f"best val score of {len(scores)} trials {max(scores):.4f} (lowest {min(scores):.4f}) with {params}"
