"""Cells of CSV files: no spreadsheet executes one, numbers stay numbers, and our readers find the texts as they were."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmu_lightning.files import csv_cell, of_csv_cell, write_rows
from gmu_lightning.report.leaderboard import rows, write_leaderboard
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run_files.plain import csv_rows
from gmu_lightning.run_files.records import robustness_genres
from gmu_lightning.run_files.shapes import anything

from .report.made_runs import Sweep

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''@x", "-", "+1-1")
ALLOWED = ("Drama", "", "'", "'tis", "a=b", "1", "-5", "+3", "-0.25", "-1e-05", "+.5", "-7.", " =1")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text):
    assert csv_cell(text) == f"'{text}" and of_csv_cell(csv_cell(text)) == text


@pytest.mark.parametrize("text", ALLOWED)
def test_other_texts_and_numbers_stay(text):
    assert csv_cell(text) == text and of_csv_cell(text) == text


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet="'=+-@\t\r\n1.eE a"))
def test_every_text_comes_back(text):
    assert of_csv_cell(csv_cell(text)) == text
    assert not csv_cell(text).startswith(("=", "@", "\t", "\r", "\n"))


def test_numbers_are_written_as_before(tmp_path):
    write_rows(tmp_path / "a.csv", [{"n": -0.5, "f": -1e-07, "none": None, "yes": True}, {"n": -3}])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["n,f,none,yes", "-0.5,-1e-07,,True", "-3,,,"]


def test_our_readers_find_names_as_they_were(tmp_path):
    write_rows(tmp_path / "a.csv", [{"subset": "text", "genre": text, "ap": 0.5} for text in FORMULAS])
    assert [row["genre"] for row in robustness_genres(tmp_path / "a.csv")] == list(FORMULAS)
    write_rows(tmp_path / "b.csv", [{"=column": "@x"}])
    assert csv_rows(tmp_path / "b.csv", 100, {"=column": anything}) == [{"=column": "@x"}]


def cells(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


def test_a_leaderboard_holds_no_formula(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    evil = sweep.run("=HYPERLINK(A1)", 1)
    evil.warn("=odd: a sentence")
    write_leaderboard(tmp_path, rows(settings_of([sweep.run("mean", 2), evil])))
    found = cells(tmp_path / "leaderboard.csv")
    assert "'=HYPERLINK(A1)" in found and any(cell.startswith("'=odd") for cell in found)
    assert not [cell for cell in found if cell.startswith(("=", "+", "@", "\t", "\r"))]
