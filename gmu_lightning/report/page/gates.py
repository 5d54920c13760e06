"""The page's sections on gates and on modality ablation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gmu_lightning.report.caveats import listed
from gmu_lightning.report.gates import (
    LOST,
    Faithfulness,
    GateTable,
    Truth,
    decomposition_error,
    faithfulness,
    gate_table,
    recovered,
)
from gmu_lightning.report.page import svg
from gmu_lightning.report.reproduce import evaluations
from gmu_lightning.report.scoring import ScoredSetting, complete, metric_label, name_for
from gmu_lightning.report.sentences import counted

HARDLY = 0.05  # smaller standard deviations are reported as hardly any change
NAMED = 3  # most settings in a part of the sentence on gates
DRAWN = 20  # best settings with figures; each has four figures of every genre
FIGURES = {  # measure: (unit, caption)
    "gate_open": (
        "share of open features",
        "Share of features with an open gate, over the test movies of the genre, as published by Arevalo et al. 2017.",
    ),
    "gate": (
        "mean gate",
        "Mean gate and its standard deviation across the test movies of the genre. A missing modality has gate 0.",
    ),
    "gate_weighted": (
        "genre-weighted gate",
        "Mean gate, each feature weighted by its absolute weight in the genre's classifier.",
    ),
    "contribution": ("contribution to the logit", "Exact contribution of each modality to the genre's logit."),
}
LOST_FIGURE = ("AP lost without it", "Average precision of the genre that is lost if every movie lacks the modality.")


def gate_sections(settings: Sequence[ScoredSetting], truth: Truth | None) -> dict[str, Any]:
    """Return the template's variables on gates and on modality ablation.

    `gates` holds figures and tables of the best `DRAWN` settings with moving gates, `gate_table` the mean and standard deviation
    of all moving gates, `gates_about` the sentence that compares settings, and `still_gates` a sentence on each gate that is the
    same for all movies. `ablation` has a row per evaluated setting, and the commands for all others.
    """
    gated = [(one, one.gates_move) for one in settings if one.test[0].gate is not None]
    moving, still = ([one for one, moves in gated if moves is wanted] for wanted in (True, False))
    several = [one for one in settings if len(one.test[0].modalities) > 1]
    losses = {one.name: found for one in several if (found := faithfulness(one.setting.finished)) is not None}
    spreads = {one.name: _over_movies(one, np.std, ddof=1) for one in moving}
    return {
        "gates": [_gates_of(one, truth, losses.get(one.name)) for one in moving[:DRAWN]],
        "gates_about": gates_about(moving),
        "gate_table": _gate_table(moving, spreads),
        "still_gates": [_still_sentence(one) for one in still],
        "undrawn_gates": [one.name for one in moving[DRAWN:]],
        "ablation": _ablation(several, losses) if several else {},
    }


def gates_about(settings: Sequence[ScoredSetting]) -> str:
    """Return the sentence that says for which settings gates change between movies; "" if no setting has moving gates."""
    moving = [one for one in settings if one.gates_move]
    return movement_sentence({one.name: float(np.mean(_over_movies(one, np.std, ddof=1))) for one in moving})


def movement_sentence(spreads: Mapping[str, float]) -> str:
    """Return a sentence on gates whose mean over features changes between movies, and one on those that hardly change.

    Args:
        spreads: {setting: standard deviation of its gates across test movies}.
    """
    parts = []
    for words, group in (
        ("change from movie to movie", {name: sd for name, sd in spreads.items() if sd >= HARDLY}),
        ("hardly change between movies", {name: sd for name, sd in spreads.items() if sd < HARDLY}),
    ):
        if len(group) > NAMED:
            ends = f"{_sd(min(group.values()))} to {_sd(max(group.values()))}"
            parts.append(f"The mean gates of {len(group)} settings {words} (sd {ends}).")
        elif group:
            named = listed([f"{name} (sd {_sd(sd)})" for name, sd in group.items()])
            parts.append(f"The mean gates of {named} {words}.")
    return " ".join(parts)


def _sd(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _gate_table(moving: Sequence[ScoredSetting], spreads: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return `columns` and `rows`: mean and standard deviation of each modality's gate, in each setting."""
    modalities = list(dict.fromkeys(m for one in moving for m in one.test[0].modalities))
    rows = []
    for one in moving:
        both = zip(one.test[0].modalities, _over_movies(one, np.mean), spreads[one.name], strict=True)
        found = {m: (float(mean), float(sd)) for m, mean, sd in both}
        rows.append({"name": one.name, "values": [value for m in modalities for value in found.get(m, (math.nan, math.nan))]})
    return {"columns": [f"{m}: {what}" for m in modalities for what in ("mean", "sd")], "rows": rows}


def _still_sentence(one: ScoredSetting) -> str:
    """Say that a gate is the same for all movies: a fixed rule, or a gate that learned nothing."""
    gates = np.stack([p.gate[complete(p)].mean(axis=0) for p in one.test if p.gate is not None])
    ranges = zip(one.test[0].modalities, gates.min(axis=0), gates.max(axis=0), strict=True)
    at = ", ".join(f"{m} {' to '.join(dict.fromkeys((f'{low:.2f}', f'{high:.2f}')))}" for m, low, high in ranges)
    movie = "movie" if complete(one.test[0]).all() else "movie that has all modalities"
    return f"The gate of {one.name} is the same for every {movie} ({at})."


def _gates_of(one: ScoredSetting, truth: Truth | None, faithful: Faithfulness | None) -> dict[str, Any]:
    table = gate_table(one.test)
    found = recovered(truth, one.test) if truth else None
    columns: dict[str, Any] = {
        "mean gate": _over_movies(one, np.mean),
        "sd across movies": _over_movies(one, np.std, ddof=1),
        "ρ(gate, contribution)": table.agreement,
    }
    if faithful:
        columns |= {f"{metric_label(name_for(score, one.task))} lost without it": faithful.lost[score] for score in LOST}
    if faithful and _known(faithful):
        columns |= {
            "ρ(gate, AP lost)": faithful.foretold["gate_weighted"],
            "ρ(contribution, AP lost)": faithful.foretold["contribution"],
        }
    if found and found.correlation:
        columns["r(gate, truth)"] = [found.correlation.get(m, math.nan) for m in table.modalities]
    shown = {name: values for name, values in columns.items() if values is not None}
    drawn = {name: table.values[name] for name in FIGURES if name == "gate" or not np.isnan(table.values[name]).all()}
    charts = [_chart(one.name, table, values, *FIGURES[name], name) for name, values in drawn.items()]
    if faithful and _known(faithful):
        charts.append(_chart(one.name, table, faithful.lost_by_genre, *LOST_FIGURE))
    return {
        "name": one.name,
        "about": _about(one, faithful),
        "charts": charts,
        "columns": list(shown),
        "rows": [{"name": m, "values": [float(of[k]) for of in shown.values()]} for k, m in enumerate(table.modalities)],
        "named": _named(found.named if found else {}),
    }


def _about(one: ScoredSetting, faithful: Faithfulness | None) -> str:
    error, whole = decomposition_error(one.test), complete(one.test[0])
    words = f"Means over {counted(len(one.test), 'seed')}."
    if not whole.all():
        words += f" Mean gate and sd are of the {whole.sum()} test movies that have all modalities."
    if error is not None:
        words += f" Bias and contributions sum to the logits {'exactly' if error == 0 else f'within {error:.0e}'}."
    if faithful is not None:
        words += f" Losses are means over {counted(faithful.runs, 'seed')}."
    return words


def _over_movies(one: ScoredSetting, summary: Callable[..., np.ndarray], **options: Any) -> np.ndarray:
    """Return (M,) a summary of the gates over complete movies, as a mean over seeds."""
    return np.mean([summary(p.gate[complete(p)], axis=0, **options) for p in one.test if p.gate is not None], axis=0)


def _known(faithful: Faithfulness) -> bool:
    return bool(np.isfinite(faithful.lost_by_genre).any())


def _named(named: Mapping[str, tuple[str, str]]) -> str:
    """Return how often contributions name the only modality that reveals a genre."""
    if not named:
        return ""
    wrong = [f"{genre} ({found} instead of {true})" for genre, (true, found) in named.items() if found != true]
    words = f"Planted truth: one modality alone reveals {counted(len(named), 'genre')}. "
    words += f"Contributions identify this modality for {len(named) - len(wrong)} of {len(named)}."
    return words + (f" Exceptions: {', '.join(wrong)}." if wrong else "")


def _chart(name: str, table: GateTable, values: np.ndarray, unit: str, caption: str, measure: str = "") -> dict[str, str]:
    """Draw bars of (C, M) values, genres with most movies first."""
    spread = np.nan_to_num(table.values["gate_sd_across_movies"]) if measure == "gate" else np.full(values.shape, np.nan)
    number, groups = svg.none_if_nan, []
    for c in np.argsort(-table.movies, kind="stable"):
        bars = [(m, number(values[c, k]), number(spread[c, k])) for k, m in enumerate(table.modalities)]
        groups.append(svg.Bars(f"{table.genres[c]} ({table.movies[c]})", bars))
    bounds = (0.0, 1.0) if "gate" in measure else None
    return {"svg": svg.bars(groups, f"{unit} of {name} for each genre and modality", unit, bounds), "caption": caption}


def _ablation(several: Sequence[ScoredSetting], losses: Mapping[str, Faithfulness]) -> dict[str, Any]:
    """Return a row of losses per evaluated setting, and the commands that evaluate all other seeds."""
    modalities = dict.fromkeys(m for one in several if one.name in losses for m in one.test[0].modalities)
    cells = [(m, score) for score in LOST for m in modalities]
    rows, commands = [], []
    for one in several:
        found = losses.get(one.name)
        others = found.others if found else one.setting.finished
        if found:
            lost = {(m, s): float(found.lost[s][k]) for k, m in enumerate(found.modalities) for s in LOST}
            seeds = f"{len(one.test) - len(others)} of {len(one.test)}"
            rows.append({"name": one.name, "seeds": seeds, "values": [lost.get(cell, math.nan) for cell in cells]})
        if others:
            commands.append({"name": one.name, "command": evaluations(others, "robustness=true")})
    columns = [f"{metric_label(name_for(score, several[0].task))} without {m}" for m, score in cells]
    return {"columns": columns, "rows": rows, "commands": commands}
