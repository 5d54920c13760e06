"""Charts that scale and say what they show, and a table that LaTeX reads."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.latex import escaped, latex
from gmu_lightning.report.page import svg

from .made import Sweep


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_rise_and_lie_inside(low, span):
    found = svg.ticks(low, low + span)
    assert 2 <= len(found) <= 7
    assert found == sorted(found)
    assert found[0] >= low - 1e-6 * max(1, abs(low), span)
    assert found[-1] <= low + span + 1e-6 * max(1, abs(low), span)


def test_charts_are_well_formed_and_escape_their_words():
    odd = '<b> & "quotes"'
    charts = [
        svg.dots([svg.Dot(odd, 0.5, 0.4, 0.6), svg.Dot("one seed", 0.3, None, None)], odd, odd),
        svg.bars([svg.Bars(odd, [("text", 0.5, 0.1), ("image", -0.2, None)])], odd, odd),
        svg.lines([svg.Line(odd, [0, 1, 2], [0.1, None, 0.3], "f0")], odd, odd, odd, diagonal=True),
        svg.lines([svg.Line("single", [0], [0.5], "f0")], odd, odd, odd),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.attrib["aria-label"] == odd
        assert "nan" not in chart


def test_a_dot_stands_where_its_value_is():
    root = ElementTree.fromstring(svg.dots([svg.Dot("a", 0.2, 0.1, 0.3), svg.Dot("b", 0.4, 0.3, 0.5)], "x", "F1"))
    xs = [float(c.attrib["cx"]) for c in root.iter() if c.tag.endswith("circle")]
    ends = [
        (float(c.attrib["x1"]), float(c.attrib["x2"]))
        for c in root.iter()
        if c.attrib.get("class") == "mark" and "x1" in c.attrib
    ]
    assert xs[0] == pytest.approx(sum(ends[0]) / 2, abs=0.2)
    assert xs[0] < xs[1]


def test_text_is_printed_by_latex_as_it_stands():
    assert (
        escaped("gmu_hier & 5 % {x} ~ ^ \\") == r"gmu\_hier \& 5 \% \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_a_latex_row_has_every_score_and_the_best_is_bold(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    text = latex(compare(sweep.rivals()))
    lines = [line for line in text.splitlines() if line.startswith(("gmu", "concat"))]
    assert all(line.count("&") == 7 for line in lines)
    assert lines[0].count(r"\textbf") == 4
    assert r"\textbf" not in lines[1]
    assert r"gmu\_original & text+image & 3 &" in lines[0]
