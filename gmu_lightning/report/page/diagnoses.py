"""The page's section on diagnoses: what gates, interaction and each modality are worth, in sentences, tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.diagnosed import Diagnosed
from gmu_lightning.report.diagnosis import Combined
from gmu_lightning.report.diagnosis_sentences import basis, kind
from gmu_lightning.report.page import svg
from gmu_lightning.report.reproduce import evaluations
from gmu_lightning.report.scoring import metric_label, name_for
from gmu_lightning.report.statistics import Interval
from gmu_lightning.report.words import points

FINDINGS = 8  # settings whose first sentence stands above the table
DRAWN = 20  # best settings with figures
COSTS = {"gates_permuted": "gates of other movies", "gates_mean": "mean gates", "emap": "additive (EMAP)"}


def diagnosis_section(comparison: Comparison) -> dict[str, Any]:
    """Return the template's variable `diagnosis`; {} if no setting has several modalities.

    Its `findings` are sentences on gates and interaction. Its `table` has a row for each diagnosed setting, and `settings` its
    sentences, chart and information. `commands` diagnose the other runs. `problems` has a sentence for each setting whose
    diagnoses cannot be read.
    """
    found = comparison.diagnoses
    if not found:
        return {}
    score = kind(comparison.metric)
    wanted = sorted(found, key=lambda one: not one.one.gates_move)  # gated settings first, each group by falling score
    known = [(one, one.combined) for one in wanted if one.combined is not None]
    return {
        "about": f"{metric_label(name_for(score, comparison.task))} on test",
        "findings": [words[0] for one, _ in known[:FINDINGS] if (words := one.sentences(comparison.metric))],
        "table": _table(known, score),
        "settings": [_setting(one, of, comparison.metric) for one, of in known[:DRAWN]],
        "undrawn": [one.name for one, _ in known[DRAWN:]],
        "commands": [{"name": one.name, "command": evaluations(one.others, "diagnose=true")} for one in wanted if one.others],
        "problems": [f"{one.name}: {one.problem}" for one in found if one.problem is not None],
    }


def _table(known: Sequence[tuple[Diagnosed, Combined]], score: str) -> dict[str, Any]:
    """Return `columns` and `rows` of {name, seeds, cells}: the score, its costs and the Shapley values of micro AP, in points."""
    costs = [change for change in COSTS if any(f"{change}/{score}" in of.costs for _, of in known)]
    modalities = list(dict.fromkeys(m for _, of in known for m in of.modalities))
    columns = ["score", *(f"cost: {COSTS[change]}" for change in costs), *(f"micro AP by {m}" for m in modalities)]
    rows = []
    for one, of in known:
        cells = [_cell(of.measures[f"score/{score}"])]
        cells += [_cell(of.costs.get(f"{change}/{score}")) for change in costs]
        cells += [_cell(of.shapley(m, "ap_micro") if m in of.modalities else None) for m in modalities]
        rows.append({"name": one.name, "seeds": f"{of.runs} of {one.runs}", "cells": cells})
    return {"columns": columns, "rows": rows}


def _cell(of: Interval | None) -> dict[str, Any]:
    """Return {`value`: points, `ends`: of the interval as text}; an empty cell for None."""
    if of is None:
        return {"value": None, "ends": ""}
    _, _, ends = points(of).partition(" points ")
    return {"value": 100 * of.mean, "ends": ends}


def _setting(one: Diagnosed, of: Combined, metric: str) -> dict[str, Any]:
    genres = sorted(of.genres, key=lambda genre: -one.movies.get(genre, 0))
    words = [sentence.removeprefix(f"{one.name}: ") for sentence in one.sentences(metric)]
    return {
        "name": one.name,
        "sentences": [f"{sentence[0].upper()}{sentence[1:]}" for sentence in words],
        "basis": basis(of),
        "charts": _charts(one.name, of, [(genre, one.movies.get(genre, 0)) for genre in genres]),
        "columns": ["all modalities", "shared", *(f"only {m}" for m in of.modalities)],
        "rows": [{"name": genre, "values": _bits(of, genre)} for genre in genres],
    }


def _charts(name: str, of: Combined, genres: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    """Draw the Shapley values of each genre that has a movie."""
    groups = []
    for genre, movies in genres:
        worth = of.shapley_of(genre)
        if worth:
            groups.append(svg.Bars(f"{genre} ({movies})", [(m, 100 * interval.mean, None) for m, interval in worth.items()]))
    if not groups:
        return []
    unit = "points of average precision"
    drawn = svg.bars(groups, f"Shapley value of each modality of {name} for each genre", unit)
    caption = "Shapley value of each modality: its part of the genre's average precision, in points, means over seeds."
    return [{"svg": drawn, "caption": caption}]


def _bits(of: Combined, genre: str) -> list[float]:
    """Return the information in bits: joint, redundant, and unique to each modality; nan for an unknown value."""
    found = of.information_bits[genre]
    values = [found["joint"], found["redundant"], *(found["unique"].get(m) for m in of.modalities)]
    return [np.nan if value is None else float(value) for value in values]
