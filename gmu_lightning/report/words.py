"""Counts, intervals and p in words."""

from __future__ import annotations

from gmu_lightning.report.statistics import ALPHA, Interval


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 seed` or `3 more seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def points(interval: Interval, of: str = "") -> str:
    """Return an interval in points, such as `5.6 points of micro F1 [3.9, 7.2]`, without brackets if its ends are unknown.

    `of` follows the word points, with its space.
    """
    mean, *bounds = (None if value is None else f"{round(100 * value, 1) + 0.0:.1f}" for value in interval)  # + 0.0: no -0.0
    return f"{mean} points{of}" + (f" [{bounds[0]}, {bounds[1]}]" if bounds[0] is not None else "")


def ends(interval: Interval) -> str:
    """Return an interval's ends, such as `[0.612, 0.634]`, or `too few seeds or movies`."""
    return "too few seeds or movies" if interval.low is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def chance(p: float | None) -> str:
    """Return p in words, such as `p = .012`; empty if it is unknown."""
    if p is None or p < 0.001:
        return "" if p is None else "p < .001"
    digits = 4 if round(p, 3) == round(ALPHA, 3) else 3  # .0497 is below the limit, and .050 would not show it
    return f"p = {p:.{digits}f}".replace("0.", ".", 1)
