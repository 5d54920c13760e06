"""Read tables and charts back from a page: tables by their columns, charts by their axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from html import unescape
from html.parser import HTMLParser
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np


class Tables(HTMLParser):
    """All tables of a page as rows of (text, data-value), all tags with their attributes, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: list[list[list[tuple[str, str | None]]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._cell: str | None = None
        self._value: str | None = None
        self._depth: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
            self._depth.append(len(self.tables) - 1)
        if tag == "tr":
            self.tables[self._depth[-1]].append([])
        if tag in ("td", "th"):
            self._cell, self._value = "", dict(attrs).get("data-value")

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.tables[self._depth[-1]][-1].append((" ".join(self._cell.split()), self._value))
            self._cell = None
        if tag == "table":
            self._depth.pop()

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell += data

    def rows(self, head: str) -> Iterator[dict[str, tuple[str, str | None]]]:
        """Yield the rows of the first table with a column `head`, as {column: (text, data-value)}."""
        for table in self.tables:
            names = [text for text, _ in table[0]]
            if head in names:
                yield from (dict(zip(names, row, strict=True)) for row in table[1:])
                return
        raise AssertionError(f"no table has a column {head}")


class Bar(NamedTuple):
    """A drawn bar in the unit of its axis; `ends` are those of its whisker, if it has one."""

    title: str
    kind: str  # CSS class
    value: float
    ends: tuple[float, float] | None


class Curve(NamedTuple):
    """A drawn curve in the units of its axes."""

    title: str
    kind: str  # CSS class
    x: np.ndarray
    y: np.ndarray


class Axis(NamedTuple):
    """The scale of an axis, fitted to its printed ticks.

    Attributes:
        at: position in pixels -> value.
        pixel: value of one pixel.
    """

    at: Callable[..., np.ndarray]
    pixel: float


class Chart:
    """A figure of a page, whose marks are read back by its own axes."""

    def __init__(self, drawing: str, caption: str):
        self.caption = caption
        self._root = ElementTree.fromstring(drawing)
        self.about = self._root.attrib["aria-label"]

    @property
    def units(self) -> list[str]:
        """Return the labels of the axes."""
        return [str(text.text) for text in self._root.iter("text") if "unit" in text.attrib["class"].split()]

    @cached_property
    def across(self) -> Axis:
        """Return the horizontal axis."""
        return self._axis("x")

    @cached_property
    def up(self) -> Axis:
        """Return the vertical axis."""
        return self._axis("y")

    def _axis(self, along: str) -> Axis:
        places, values = [], []
        for line, text in zip(self._root, list(self._root)[1:], strict=False):
            if line.get("class") == "grid" and line.attrib[f"{along}1"] == line.attrib[f"{along}2"]:
                places.append(float(line.attrib[f"{along}1"]))
                values.append(float(str(text.text)))
        slope, start = np.polyfit(places, values, 1)
        return Axis(lambda place: slope * np.asarray(place) + start, abs(slope))

    @property
    def bars(self) -> list[Bar]:
        """Return the bars from the top; each starts at zero."""
        found = []
        for rect, after in zip(self._root, [*list(self._root)[1:], None], strict=True):
            if rect.tag == "rect":
                start = float(rect.attrib["x"])
                value = max(self.across.at([start, start + float(rect.attrib["width"])]).tolist(), key=abs)
                whisker = after is not None and after.get("class") == "whisker"
                ends = self.across.at([float(after.attrib[x]) for x in ("x1", "x2")]).tolist() if whisker else None
                found.append(Bar(_title(rect), rect.attrib["class"], value, ends and tuple(ends)))
        return found

    @property
    def curves(self) -> list[Curve]:
        """Return the curves in drawing order."""
        found = []
        for line in self._root.iter("polyline"):
            places = np.array([point.split(",") for point in line.attrib["points"].split()], dtype=float)
            found.append(Curve(_title(line), line.attrib["class"], self.across.at(places[:, 0]), self.up.at(places[:, 1])))
        return found


def charts(text: str) -> list[Chart]:
    """Return the charts of a page that have a caption."""
    found = re.findall(r"<figure>(<svg.*?</svg>)<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    return [Chart(drawing, unescape(caption)) for drawing, caption in found]


def _title(of: ElementTree.Element) -> str:
    return str(of.findtext("title"))
