"""Charts that scale and say what they show, and a table that LaTeX reads."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.latex import escaped, latex
from gmu_lightning.report.page import svg
from gmu_lightning.run import Run

from .made import Sweep, put


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


def test_a_name_of_several_lines_stays_in_its_row():
    assert escaped("one\n  two") == "one two"


def test_a_latex_row_has_every_score_and_the_best_is_bold(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    text = latex(compare(sweep.rivals()))
    lines = [line for line in text.splitlines() if line.startswith(("gmu", "concat"))]
    assert all(line.count("&") == 7 for line in lines)
    assert lines[0].count(r"\textbf") == 4
    assert r"\textbf" not in lines[1]
    assert r"gmu\_original & text+image & 3 &" in lines[0]


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """`good` has the best F1; `timid` ranks better still, but hardly ever says yes; `alone` has one seed."""
    sweep = Sweep(tmp_path / "sweep")
    timid = sweep.three_seeds("timid", 2.5, spread=0.4)
    for run in timid:
        said = run.predictions("test")
        said.logits = said.logits - 4.0
        put(run, said)
    others = [sweep.three_seeds("good", 1.7, spread=0.2), sweep.three_seeds("also", 1.6, spread=0.2)]
    return [*timid, *others[0], *others[1], *sweep.three_seeds("poor", 0.2, spread=0.2), sweep.run("alone", skill=0.3)]


SCORES = {
    "Micro F1": lambda p: f1_score(p.labels, p.probabilities >= 0.5, average="micro"),
    "Macro F1": lambda p: f1_score(p.labels, p.probabilities >= 0.5, average="macro"),
    "Micro AP": lambda p: average_precision_score(p.labels, p.probabilities, average="micro"),
    "Macro AP": lambda p: average_precision_score(p.labels, p.probabilities, average="macro"),
}


def test_a_latex_table_s_numbers_are_scikit_learn_s_and_each_column_s_best_is_bold(runs):
    rows = latex_rows(latex(compare(runs)))
    assert len(rows) == 5
    best = {}
    for score, of in SCORES.items():
        each = {name: [100 * of(run.predictions("test")) for run in runs if fusion_of(run) == name] for name in rows}
        best[score] = max(rows, key=lambda name: np.mean(each[name]))
        for name, row in rows.items():
            mean, count = f"{np.mean(each[name]):.1f}", len(each[name])
            sd = f" $\\pm$ {np.std(each[name], ddof=1):.1f}" if count > 1 else ""
            assert row[score] == (rf"\textbf{{{mean}}}" if name == best[score] else mean) + sd
            assert row["Seeds"] == str(count)
    assert best["Micro F1"] == next(iter(rows)) != "timid"
    assert best["Micro AP"] == "timid"


def test_rows_of_a_latex_table_share_a_letter_where_holm_cannot_tell_them_apart(runs):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    found = compare(runs)
    tested = [pair for pair in found.pairs if pair.difference.p is not None]
    different, *_ = multitest.multipletests([pair.difference.p for pair in tested], method="holm")
    apart = {frozenset((pair.a.name, pair.b.name)) for pair, it in zip(tested, different, strict=True) if it}
    shown = {name: row[""] for name, row in latex_rows(latex(found)).items()}
    assert shown.pop("alone") == ""  # one seed, which ties with nobody
    letters = {name: set(re.fullmatch(r"\$\{\}\^\{([a-z]+)\}\$", cell)[1]) for name, cell in shown.items()}
    assert {frozenset(two) for two in combinations(letters, 2) if not letters[two[0]] & letters[two[1]]} == apart
    assert 0 < len(apart) < len(tested)
    assert next(iter(letters.values())) == {"a"}


def fusion_of(run: Run) -> str:
    return run.config["choices"]["fusion"]


def latex_rows(text: str) -> dict[str, dict[str, str]]:
    """{fusion: {head: cell}}, from the top."""
    lines = [line.removesuffix(r"\\").split("&") for line in text.splitlines() if line.endswith(r"\\")]
    head, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
