"""Small charts as SVG text: they take the page's colours, light or dark, scale with its width, and carry their own words.

Every chart is an image with an alternative text (`role="img"`, `aria-label`); colours are CSS classes of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 420.0  # of the drawing: what a phone has; the page may scale it
ROW = 22.0
LETTER = 6.6  # of a label, roughly
MARGIN = 14.0
Scale = Callable[[float], float]  # a value -> its place in the drawing


class Dot(NamedTuple):
    """An estimate with its interval."""

    label: str
    mean: float
    low: float | None
    high: float | None
    kind: str = "mark"  # CSS class


class Line(NamedTuple):
    """A curve; what is None is left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str


class Bars(NamedTuple):
    """A group of horizontal bars under one label; `spread` is drawn as a whisker, None where there is none; a value that is None
    leaves its place empty."""

    label: str
    values: Sequence[tuple[str, float | None, float | None]]  # CSS class, value, spread


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most so many and at least two."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / most))
    step = next(step * k for k in (1, 2, 2.5, 5, 10, 20) if span / (step * k) <= most)
    first = math.ceil(low / step - 1e-9)
    found = [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [low, high]


def dots(rows: Sequence[Dot], about: str, unit: str, width: float = WIDTH) -> str:
    """One line per estimate, its label above it: a point and its interval, best first. Narrow, to be read on a phone."""
    ends = [v for row in rows for v in (row.low, row.mean, row.high) if v is not None]
    low, high = _padded(min(ends), max(ends))
    at = _scale(low, high, MARGIN, width - MARGIN)
    tall = 1.5 * ROW
    height = tall * len(rows) + 8
    body = [_x_axis(ticks(low, high), at, 8, height, unit)]
    for n, row in enumerate(rows):
        y = 8 + tall * (n + 0.75)
        body.append(_text(MARGIN, y - 10, row.label, "start"))
        if row.low is not None and row.high is not None:
            body.append(f'<line class="{row.kind}" x1="{at(row.low):.1f}" x2="{at(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        title = f"{row.label}: {row.mean:.4f}" + ("" if row.low is None else f" [{row.low:.4f}, {row.high:.4f}]")
        body.append(f'<circle class="{row.kind}" cx="{at(row.mean):.1f}" cy="{y:.1f}" r="4">{_title(title)}</circle>')
    return _svg(width, height + 34, about, body)


def bars(groups: Sequence[Bars], about: str, unit: str, bounds: tuple[float, float] | None = None, width: float = WIDTH) -> str:
    """Groups of thin horizontal bars from zero, a group under each label."""
    left = _room(group.label for group in groups)
    reach = [
        v + s * side
        for g in groups
        for _, v, s in ((k, v, s or 0.0) for k, v, s in g.values if v is not None)
        for side in (-1, 1)
    ]
    low, high = bounds or _padded(min(0.0, *reach), max(0.0, *reach))
    at = _scale(low, high, left, width - MARGIN)
    thick = 7.0
    height, body = 8.0, []
    for group in groups:
        tall = thick * len(group.values)
        body.append(_text(left - 8, height + tall / 2 + 4, group.label, "end"))
        for kind, value, spread in group.values:
            if value is None:
                height += thick
                continue
            start, end = sorted((at(0.0), at(value)))
            title = _title(f"{group.label}: {value:.3f}" + ("" if spread is None else f", spread {spread:.3f}"))
            box = f'x="{start:.1f}" y="{height:.1f}" width="{max(end - start, 0.5):.1f}" height="{thick - 1.5}"'
            body.append(f'<rect class="{kind}" {box}>{title}</rect>')
            if spread is not None:
                y = height + (thick - 1.5) / 2
                a, b = at(max(low, value - spread)), at(min(high, value + spread))
                body.append(f'<line class="whisker" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            height += thick
        height += max(6.0, ROW - tall)
    body.insert(0, _x_axis(ticks(low, high), at, 8, height, unit))
    return _svg(width, height + 34, about, body)


def lines(
    curves: Sequence[Line],
    about: str,
    x_unit: str,
    y_unit: str,
    size: tuple[float, float] = (360.0, 220.0),
    bounds: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> str:
    """Curves over one pair of axes; their names stand in the page's key. A diagonal wants the `bounds` of both axes."""
    width, height = size
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y if y is not None]
    low, high = bounds or _padded(min(ys), max(ys))
    start, end = (low, high) if diagonal else (min(xs), max(*xs, min(xs) + 1e-9))
    across = _scale(start, end, 52, width - MARGIN)
    up = _scale(low, high, height - 40, 10)
    body = [
        _x_axis(ticks(start, end), across, 10, height - 40, x_unit),
        _y_axis(ticks(low, high, 5), up, 52, width - MARGIN, y_unit),
    ]
    if diagonal:
        body.append(
            f'<line class="guide" x1="{across(low):.1f}" y1="{up(low):.1f}" x2="{across(high):.1f}" y2="{up(high):.1f}"/>'
        )
    for curve in curves:
        points = [(across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body.append(f'<polyline class="{curve.kind}" points="{path}">{_title(curve.label)}</polyline>')
        if len(points) < 20:
            body += [f'<circle class="{curve.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in points]
    return _svg(width, height, about, body)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low) or max(abs(high) * 0.05, 0.01)
    if low == high == 0:
        return 0.0, margin
    return (low if low == 0 else low - margin), (high if high == 0 else high + margin)


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _room(labels: Iterable[str]) -> float:
    return 20 + LETTER * min(44, max(map(len, labels)))


def _x_axis(at_values: Sequence[float], at: Scale, top: float, bottom: float, unit: str) -> str:
    parts = []
    for value in at_values:
        x = at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom:.1f}"/>')
        parts.append(_text(x, bottom + 14, f"{value:g}", "middle"))
    parts.append(_text((at(at_values[0]) + at(at_values[-1])) / 2, bottom + 28, unit, "middle", "unit"))
    return "".join(parts)


def _y_axis(at_values: Sequence[float], at: Scale, left: float, right: float, unit: str) -> str:
    parts = [_text(12, (at(at_values[0]) + at(at_values[-1])) / 2, unit, "middle", "unit turned")]
    for value in at_values:
        y = at(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, f"{value:g}", "end"))
    return "".join(parts)


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    short = words if len(words) <= 46 else words[:44] + "…"
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if "turned" in kind else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(short)}</text>'


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>"


def _svg(width: float, height: float, about: str, body: Sequence[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img"'
    return f'{head} aria-label="{escape(about, quote=True)}">{"".join(body)}</svg>'
