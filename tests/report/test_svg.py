"""SVG charts have few ticks, valid XML, descriptions, and marks at their values."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmu_lightning.report.page import svg


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_sorted_and_inside(low, span):
    found = svg.ticks(low, low + span)
    assert 2 <= len(found) <= 7
    assert found == sorted(found)
    assert found[0] >= low - 1e-6 * max(1, abs(low), span)
    assert found[-1] <= low + span + 1e-6 * max(1, abs(low), span)


def test_charts_are_valid_xml_with_escaped_text():
    odd = '<b> & "quotes"'
    charts = [
        svg.dots([svg.Dot(odd, 0.5, 0.4, 0.6), svg.Dot("one seed", 0.3, None, None)], odd, odd),
        svg.bars([svg.Bars(odd, [("text", 0.5, 0.1), ("image", -0.2, None)])], odd, odd),
        svg.lines([svg.Line(odd, [0, 1, 2], [0.1, 0.2, 0.3], "f0")], odd, odd, odd, square=True),
        svg.lines([svg.Line("single", [0], [0.5], "f0")], odd, odd, odd),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.attrib["aria-label"] == odd
        assert "nan" not in chart


def test_dots_are_placed_by_value():
    root = ElementTree.fromstring(svg.dots([svg.Dot("a", 0.2, 0.1, 0.3), svg.Dot("b", 0.4, 0.3, 0.5)], "x", "F1"))
    centres = [percent(circle, "cx") for circle in root.iter("circle")]
    ends = [[percent(line, "x1"), percent(line, "x2")] for group in root.iter("g") for line in group.iter("line")]
    assert centres == pytest.approx([sum(both) / 2 for both in ends], abs=0.02)
    assert ends[0][1] == pytest.approx(ends[1][0], abs=0.02)


def percent(of: ElementTree.Element, name: str) -> float:
    return float(of.attrib[name].removesuffix("%"))


def test_labels_at_the_ends_of_curves_never_overlap():
    curves = [svg.Line(f"curve {n}", [0, 1], [0.1, 0.5 + 0.001 * n], f"f{n}", f"name {n}") for n in range(svg.NAMED)]
    root = ElementTree.fromstring(svg.lines(curves, "x", "epoch", "loss"))
    places = sorted(float(text.attrib["y"]) for text in root.iter("text") if str(text.text).startswith("name"))
    assert len(places) == svg.NAMED
    assert min(b - a for a, b in pairwise(places)) >= svg.LINE - 0.2
