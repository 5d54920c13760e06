"""Curves over an amount of data as rows and tables, and the pairs that they replace."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from gmu_lightning.files import markdown_table
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.curves import Curve, is_logarithmic, label
from gmu_lightning.report.scoring import metric_label
from gmu_lightning.report.statistics import Interval
from gmu_lightning.report.words import counted, ends


def curve_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the curves for comparison.json."""
    return [
        {
            "option": curve.option,
            "setting": curve.name,
            "points": [
                {"value": point.value, **interval._asdict(), "seeds": len(point.setting.test)}
                for point, interval in zip(curve.points, curve.intervals(comparison.metric), strict=True)
            ],
        }
        for curve in comparison.curves
    ]


def curve_lines(comparison: Comparison) -> list[str]:
    """Return the curves as sections of comparison.md, one per option: a row per setting, a column per value."""
    lines: list[str] = []
    for option, curves in _by_option(comparison).items():
        values = sorted({point.value for curve in curves for point in curve.points})
        rows = []
        for curve in curves:
            points = zip(curve.points, curve.intervals(comparison.metric), strict=True)
            cells = {point.value: f"{interval.mean:.3f} {_ends(interval)}".rstrip() for point, interval in points}
            rows.append([curve.name, *(cells.get(value, "") for value in values)])
        head = [f"{option}={value:g}" for value in values]
        lines += ["", f"## Score by {label(option)}", "", *markdown_table(["setting", *head], rows)]
    return lines


def _ends(interval: Interval) -> str:
    return "" if interval.low is None else ends(interval)


def write_figures(comparison: Comparison, folder: Path) -> None:
    """Write `curve-<option>.png` and `.svg` for each option with curves."""
    from gmu_lightning.report.figures import curve_figure, save

    score = metric_label(comparison.metric)
    for option, curves in _by_option(comparison).items():
        drawn = {c.name: dict(zip((p.value for p in c.points), c.intervals(comparison.metric), strict=True)) for c in curves}
        values = sorted({value for found in drawn.values() for value in found})
        save(curve_figure(drawn, label(option), score, is_logarithmic(values)), folder / f"curve-{option.removeprefix('data.')}")


def _by_option(comparison: Comparison) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {}
    for curve in comparison.curves:
        found.setdefault(curve.option, []).append(curve)
    return found


def other_questions(comparison: Comparison) -> list[str]:
    """Return a sentence on the pairs with other amounts of data, for each combination of options that differ."""
    apart = Counter(" or ".join(row["options"]) for row in comparison.refused if row.get("options"))
    why = "because their difference answers another question"
    shown = ". The curves show their scores" if comparison.curves else ""
    return [f"{counted(count, 'pair')} with another {options}, {why}{shown}" for options, count in apart.items()]
