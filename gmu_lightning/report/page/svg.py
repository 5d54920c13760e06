"""Charts of the page as HTML and SVG. They take its colours (light or dark) from CSS classes, and need no script to be read.

Every chart has a description, and every mark a `<title>`. The page's script shows titles as tooltips, by pointer and by keys.
A page of twenty settings has about a hundred charts. By matplotlib, each takes 400 times as long and 3.5 times as many bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from gmu_lightning.report.statistics import Interval

WIDTH = 380.0  # of a drawing, for a phone; the page may scale it
THICK = 8.0  # of a bar, with the space below it
GAP = 9.0  # between two groups of bars
LETTER = 6.2  # approximate width in a label
MARGIN = 14.0
NAMED = 8  # most curves with a label at their end
LINE = 12.0  # height of such a label
MOST_TICKS = 8  # values that are all marked on an axis
Scale = Callable[[float], float]  # from a value to its place in the drawing


class Dot(NamedTuple):
    """An estimate with its interval, a note beside its label, and a CSS class."""

    label: str
    mean: float
    low: float | None
    high: float | None
    note: str = ""
    kind: str = ""


class Line(NamedTuple):
    """A curve of one CSS class. `name` is its label at the curve's end, `label` the one in its tooltip."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str
    name: str = ""


class Estimates(NamedTuple):
    """A curve of estimates with their intervals, of one CSS class."""

    label: str
    x: Sequence[float]
    y: Sequence[Interval]
    kind: str


class Bars(NamedTuple):
    """A group of horizontal bars under one label: CSS class, value (None leaves a gap), and spread, drawn as a whisker."""

    label: str
    values: Sequence[tuple[str, float | None, float | None]]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return two to `most` round numbers from `low` to `high`."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / most))
    step = next(step * k for k in (1, 2, 2.5, 5, 10, 20) if span / (step * k) <= most)
    first = math.ceil(low / step - 1e-9)
    found = [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [low, high]


def dots(rows: Sequence[Dot], about: str, unit: str, scale: Sequence[Dot] = (), digits: int = 3) -> str:
    """Draw a row per estimate: its label, its interval and its numbers in columns of their own, so that none covers another.

    Args:
        scale: estimates that set the ends of the axis, if not `rows`.
        digits: of the numbers; tooltips have one more.
    """
    ends = [v for row in scale or rows for v in row[1:4] if v is not None]
    low, high = _padded(min(ends), max(ends))
    at, marks = _scale(low, high, 0, 100), ticks(low, high)
    grid = "".join(f'<line class="grid" x1="{at(v):.2f}%" x2="{at(v):.2f}%" y1="0" y2="100%"></line>' for v in marks)
    body = [_dot(row, at, grid, digits) for row in rows]
    axis = "".join(f'<text x="{at(v):.2f}%" y="13" text-anchor="middle">{v:g}</text>' for v in marks)
    unit = f'<span class="unit">{escape(unit)}</span>'
    body.append(f'<div class="row axis"><span></span><svg aria-hidden="true">{axis}</svg>{unit}</div>')
    return f'<div class="chart dots" role="group" aria-label="{escape(about)}">{"".join(body)}</div>'


def _dot(row: Dot, at: Scale, grid: str, digits: int) -> str:
    """Return a row of `dots`. Its text repeats the numbers, so that screen readers skip the drawing."""
    short, long = f".{digits}f", f".{digits + 1}f"
    title, value = f"{row.label}: {row.mean:{long}}", f"<b>{row.mean:{short}}</b>"
    line = ""
    if row.low is not None and row.high is not None:
        line = f'<line x1="{at(row.low):.2f}%" x2="{at(row.high):.2f}%" y1="50%" y2="50%"></line>'
        title += f" [{row.low:{long}}, {row.high:{long}}]"
        value += f" [{row.low:{short}}, {row.high:{short}}]"
    value += f' <span class="note">{escape(row.note)}</span>' if row.note else ""
    mark = f'<g class="mark"><title>{escape(title)}</title>{line}<circle cx="{at(row.mean):.2f}%" cy="50%" r="5"></circle></g>'
    parts = (
        f'<span class="label">{escape(row.label)}</span>',
        f'<svg aria-hidden="true">{grid}{mark}</svg>',
        f'<span class="value">{value}</span>',
    )
    return f'<div class="row {row.kind}">{"".join(parts)}</div>'


def bars(groups: Sequence[Bars], about: str, unit: str, bounds: tuple[float, float] | None = None) -> str:
    """Draw groups of thin horizontal bars that start at zero."""
    known = [(value, spread or 0.0) for group in groups for _, value, spread in group.values if value is not None]
    low, high = bounds or _padded(min(0.0, *(v - s for v, s in known), 0.0), max(0.0, *(v + s for v, s in known), 0.0))
    left = 20 + LETTER * min(26, max(len(group.label) for group in groups))
    at, height, body = _scale(low, high, left, WIDTH - MARGIN), 8.0, []
    for group in groups:
        tall = THICK * len(group.values)
        body.append(_text(left - 8, height + tall / 2 + 3, group.label, "end", most=26))
        for n, (kind, value, spread) in enumerate(group.values):
            if value is None:
                continue
            y, (start, end) = height + THICK * n, sorted((at(0.0), at(value)))
            title = f"{group.label}, {kind}: {value:.3f}" + ("" if spread is None else f", sd {spread:.3f}")
            body.append(_mark("rect", kind, title, x=start, y=y, width=max(end - start, 0.5), height=THICK - 1.5))
            if spread is not None:
                a, b = at(max(low, value - spread)), at(min(high, value + spread))
                body.append(_mark("line", "whisker", x1=a, x2=b, y1=y + (THICK - 1.5) / 2, y2=y + (THICK - 1.5) / 2))
        height += tall + GAP
    return _svg(WIDTH, height + 34, about, [_x_axis(ticks(low, high, 5), at, 8, height, unit), *body])


def lines(curves: Sequence[Line], about: str, x_unit: str, y_unit: str, square: bool = False) -> str:
    """Draw curves over one pair of axes. At most `NAMED` curves have their names at their ends; the page's key names all.

    If `square`, both axes run from 0 to 1, there is a diagonal, and curves have no names.
    """
    width, height = (300.0, 280.0) if square else (WIDTH, 240.0)
    named = not square and len(curves) <= NAMED and all(curve.name for curve in curves)
    right = width - (MARGIN + 6 + LETTER * max(len(curve.name) for curve in curves) if named else MARGIN)
    xs, ys = [x for curve in curves for x in curve.x], [y for curve in curves for y in curve.y]
    low, high = (0.0, 1.0) if square else _padded(min(ys), max(ys))
    start, end = (0.0, 1.0) if square else (min(xs), max(*xs, min(xs) + 1e-9))
    across, up = _scale(start, end, 52, right), _scale(low, high, height - 40, 10)
    body = [
        _x_axis(ticks(start, end), across, 10, height - 40, x_unit),
        _y_axis(ticks(low, high, 5), up, 52, right, y_unit),
    ]
    if square:
        body.append(_mark("line", "guide", x1=across(low), y1=up(low), x2=across(high), y2=up(high)))
    for curve in curves:
        points = [(across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body.append(f'<polyline class="{curve.kind}" points="{path}"><title>{escape(curve.label)}</title></polyline>')
        if len(points) == 1:
            body.append(_mark("circle", curve.kind, cx=points[0][0], cy=points[0][1], r=3))
    if named:
        places = _apart([up(curve.y[-1]) for curve in curves], height - 40)
        body += [_text(right + 6, y + 3.5, curve.name, "start", curve.kind) for curve, y in zip(curves, places, strict=True)]
    # The script computes the values of a point from its place.
    axes = {"x": [x_unit, start, 52, (end - start) / (right - 52)], "y": [y_unit, low, height - 40, (low - high) / (height - 50)]}
    return _svg(width, height, about, body, f' data-axes="{escape(json.dumps(axes))}"')


def estimates(curves: Sequence[Estimates], about: str, x_unit: str, y_unit: str, logarithmic: bool = False) -> str:
    """Draw curves with an interval at each value.

    Curves are moved a little to the side, so that no interval covers another, and have their names at their ends.
    """
    height, bottom = 260.0, 220.0
    right = WIDTH - (MARGIN + 6 + LETTER * min(24, max(len(curve.label) for curve in curves)))
    values = sorted({x for curve in curves for x in curve.x})
    ends = [v for curve in curves for interval in curve.y for v in interval if v is not None]
    low, high = _padded(min(ends), max(ends))
    up = _scale(low, high, bottom, 10)
    place: Scale = math.log if logarithmic else float
    linear = _scale(place(values[0]), place(values[-1]), 62, right - 10)
    marked = values if len(values) <= MOST_TICKS else ticks(values[0], values[-1])
    body = [
        _x_axis(marked, lambda value: linear(place(value)), 10, bottom, x_unit),
        _y_axis(ticks(low, high, 5), up, 52, right, y_unit),
    ]
    for n, curve in enumerate(curves):
        aside = 3.0 * (n - (len(curves) - 1) / 2)
        points = [(linear(place(x)) + aside, up(interval.mean)) for x, interval in zip(curve.x, curve.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body.append(f'<polyline class="{curve.kind}" points="{path}"></polyline>')
        for (x, y), value, (mean, least, most) in zip(points, curve.x, curve.y, strict=True):
            title, whisker = f"{curve.label} at {value:g}: {mean:.4f}", ""
            if least is not None and most is not None:
                title += f" [{least:.4f}, {most:.4f}]"
                whisker = f'<polyline class="{curve.kind}" points="{x:.1f},{up(least):.1f} {x:.1f},{up(most):.1f}"></polyline>'
            dot = _mark("circle", curve.kind, cx=x, cy=y, r=3)
            body.append(f'<g class="point"><title>{escape(title)}</title>{whisker}{dot}</g>')
    places = _apart([up(curve.y[-1].mean) for curve in curves], bottom)
    body += [_text(right + 6, y + 3.5, c.label, "start", c.kind, 24) for c, y in zip(curves, places, strict=True)]
    return _svg(WIDTH, height, about, body)


def _apart(places: Sequence[float], bottom: float) -> list[float]:
    """Return the places of labels, moved up or down until they are `LINE` apart and none is below `bottom`."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found, last = list(places), -math.inf
    for n in order:
        last = found[n] = max(places[n], last + LINE)
    last = bottom + LINE
    for n in reversed(order):
        last = found[n] = min(found[n], last - LINE)
    return found


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low) or max(abs(high) * 0.05, 0.01)
    if low == high == 0:
        return 0.0, margin
    return (low if low == 0 else low - margin), (high if high == 0 else high + margin)


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _x_axis(values: Sequence[float], at: Scale, top: float, bottom: float, unit: str) -> str:
    parts = [
        _mark("line", "grid", x1=at(value), x2=at(value), y1=top, y2=bottom)
        + _text(at(value), bottom + 14, f"{value:g}", "middle")
        for value in values
    ]
    return "".join([*parts, _text((at(values[0]) + at(values[-1])) / 2, bottom + 28, unit, "middle", "unit")])


def _y_axis(values: Sequence[float], at: Scale, left: float, right: float, unit: str) -> str:
    parts = [_text(12, (at(values[0]) + at(values[-1])) / 2, unit, "middle", "unit turned")]
    for y, value in zip(map(at, values), values, strict=True):
        parts += [_mark("line", "grid", x1=left, x2=right, y1=y, y2=y), _text(left - 6, y + 4, f"{value:g}", "end")]
    return "".join(parts)


def _mark(tag: str, kind: str, title: str = "", **places: float) -> str:
    """Return an element with rounded places, and a tooltip if it has a title."""
    at = " ".join(f'{name}="{round(value, 1):g}"' for name, value in places.items())
    return f'<{tag} class="{kind}" {at}>' + (f"<title>{escape(title)}</title>" if title else "") + f"</{tag}>"


def _text(x: float, y: float, words: str, anchor: str, kind: str = "", most: int = 46) -> str:
    short = words if len(words) <= most else words[: most - 2] + "…"
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if "turned" in kind else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(short)}</text>'


def _svg(width: float, height: float, about: str, body: Sequence[str], more: str = "") -> str:
    head = f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{1.5 * width:.0f}px" role="img"'
    return f'{head} aria-label="{escape(about, quote=True)}"{more}>{"".join(body)}</svg>'


def none_if_nan(value: float) -> float | None:
    """Return a Python float, or None for nan."""
    return None if math.isnan(value) else float(value)
