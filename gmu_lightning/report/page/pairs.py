"""The page's matrix of pairs: one cell per pair of settings, with its difference, interval and claim."""

from __future__ import annotations

from typing import Any

from gmu_lightning.report.comparison import Comparison, Pair
from gmu_lightning.report.reproduce import more_seeds
from gmu_lightning.report.statistics import FEWEST_SEEDS

CLAIMS = {  # kinds of cells: words of the key
    "above": "significantly better than the column's setting",
    "below": "significantly worse than the column's setting",
    "open": "not significant",
    "same": "equal predictions",
    "few": "too few seeds or movies for a test",
    "refused": "not comparable",
}


def pair_matrix(comparison: Comparison) -> dict[str, Any]:
    """Return `columns`, `rows` of cells, and `key`, the kinds of cells that occur.

    A cell is the score of the row's setting minus that of the column's. The best setting is the first row, and the cells below
    the diagonal are None. If the comparison is against one setting, that setting is the only column.
    """
    names, against = [one.name for one in comparison.settings], comparison.against
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in comparison.refused:
        a, b = row["a"], row["b"]
        cells[(b, a) if a == against else (a, b)] = {"kind": "refused", "words": row["why"]}
    for n, pair in enumerate(comparison.pairs):
        a, b = pair.a.name, pair.b.name
        cells[(b, a) if a == against else (a, b)] = _cell(pair, a == against) | {"pair": n}
    columns = [against] if against else names[1:]
    rows: list[dict[str, Any]] = [
        {"name": name, "cells": [cells.get((name, column)) for column in columns]}
        for name in (names if against else names[:-1])
        if name != against
    ]
    kinds = {cell["kind"] for row in rows for cell in row["cells"] if cell}
    return {"columns": columns, "rows": rows, "key": [(kind, words) for kind, words in CLAIMS.items() if kind in kinds]}


def _cell(pair: Pair, turned: bool) -> dict[str, Any]:
    """Return the cell of a pair; `turned` if its second setting is the row's."""
    interval = pair.difference.interval
    mean, low, high = interval.negated() if turned else interval
    kind = "same" if pair.same else "few" if pair.difference.p is None else "open"
    if pair.claimed:
        kind = "above" if mean > 0 else "below"
    ends = "" if low is None or high is None else f"[{_points(low)}, {_points(high)}]"
    sign = "+" if mean > 0 else ""
    return {"kind": kind, "difference": "=" if pair.same else sign + _points(mean), "ends": ends}


def _points(value: float) -> str:
    """Return a fraction in hundredths, with a true minus sign and without a negative zero."""
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "−")


def seed_commands(comparison: Comparison) -> list[str]:
    """Return one command per setting with fewer finished seeds than a test needs. A test over splits needs one on each."""
    commands = (more_seeds(one.setting, FEWEST_SEEDS) for one in comparison.settings if not one.splits)
    return [command for command in commands if command]
