"""Files of predictions: columns, formats, cells that look like formulas, and paths that are refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from gmu_lightning.files import of_csv_cell
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.output import WRITERS, write_predictions
from gmu_lightning.prediction.request import FORMATS, check_output
from gmu_lightning.prediction.results import Form, Results

GENRES, MODALITIES = ("Drama", "War"), ("text", "image")
LOGITS = np.array([[1.0, -2.0], [0.5, 3.0], [np.nan, np.nan]])
PARTS = np.stack([LOGITS - 0.5, np.full((3, 2), 0.25)], axis=1)  # (3, 2, 2), with bias 0.25
PRESENT = np.array([[True, True], [True, False], [False, False]])
IDS, PROBLEMS = ["a", "=SUM(A1)", "-3"], [None, "@image x.jpg is not used", "it has no text and no image"]


def form(threshold=0.5, several=False, bias=0.25, task="multilabel") -> Form:
    return Form(GENRES, MODALITIES, threshold, task, several, None if bias is None else np.full(2, bias))


def made(**options) -> Results:
    """Return three rows, of which the last could not be predicted."""
    return Results.mean(form(**options), IDS, PRESENT, PROBLEMS, [LOGITS], [PARTS])


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits)))


def test_columns_are_those_of_the_contract():
    assert list(made().columns()) == [
        *("id", "present/text", "present/image", "prob/Drama", "prob/War", "logit/Drama", "logit/War"),
        *("contribution/text/Drama", "contribution/text/War", "contribution/image/Drama", "contribution/image/War"),
        *("genres", "problem"),
    ]


def test_the_mean_of_runs_is_over_probabilities_logits_and_contributions():
    other = LOGITS + np.array([1.0, -1.0])
    found = Results.mean(form(several=True), IDS, PRESENT, PROBLEMS, [LOGITS, other], [PARTS, PARTS + 0.5]).frame()
    assert found["prob/Drama"][:2].tolist() == pytest.approx((sigmoid(LOGITS[:2, 0]) + sigmoid(other[:2, 0])) / 2)
    pairs = np.stack([sigmoid(LOGITS[:2, 1]), sigmoid(other[:2, 1])])
    assert found["prob_sd/War"][:2].tolist() == pytest.approx(pairs.std(axis=0, ddof=1))
    assert found["logit/War"][:2].tolist() == pytest.approx(LOGITS[:2, 1] - 0.5)
    assert found["contribution/text/Drama"][:2].tolist() == pytest.approx(LOGITS[:2, 0] - 0.25)


def test_one_inexact_run_leaves_no_contributions():
    found = Results.mean(form(several=True, bias=None), IDS, PRESENT, PROBLEMS, [LOGITS, LOGITS], [PARTS, None])
    assert not [name for name in found.columns() if name.startswith("contribution/")]


def test_a_threshold_per_genre_decides():
    assert made().genres == [["Drama"], ["Drama", "War"], None]
    assert made(threshold=[0.9, 0.1]).genres == [["War"], ["War"], None]


def test_a_multiclass_run_has_a_softmax_and_one_genre():
    found = made(task="multiclass")
    odds = np.exp(LOGITS[:2])
    assert found.probabilities[:2] == pytest.approx(odds / odds.sum(axis=1, keepdims=True))
    assert found.genres == [["Drama"], ["War"], None]
    assert found.form.about()["threshold"] is None


def test_numbers_that_are_not_finite_are_a_problem_of_their_row():
    broken = np.where([[True], [False], [False]], np.inf, LOGITS)
    found = Results.mean(form(), IDS, PRESENT, PROBLEMS, [broken], [None])
    assert found.problems[0] == "the model gives it no finite numbers"
    assert found.predicted.tolist() == [False, True, False]
    assert np.isnan(found.probabilities[0]).all()


def test_parquet_holds_lists_nulls_and_metadata(tmp_path):
    write_predictions(tmp_path / "deep/out.parquet", [made().table(), made().table()], form().about())
    table = pq.read_table(tmp_path / "deep/out.parquet")
    assert table["id"].to_pylist() == IDS * 2
    assert table["genres"].to_pylist()[:3] == [["Drama"], ["Drama", "War"], None]
    assert table["logit/War"].to_pylist()[:3] == [-2.0, 3.0, None]
    assert table["problem"].to_pylist()[:3] == PROBLEMS
    about = json.loads(table.schema.metadata[b"gmu_lightning"])
    assert about == {
        "genres": ["Drama", "War"],
        "modalities": ["text", "image"],
        "task": "multilabel",
        "threshold": 0.5,
        "bias": {"Drama": 0.25, "War": 0.25},
    }


def test_csv_has_no_cell_that_a_spreadsheet_executes(tmp_path):
    write_predictions(tmp_path / "out.csv", [made().table(), made().table()], {})
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert [row["id"] for row in rows] == ["a", "'=SUM(A1)", "-3"] * 2
    assert rows[1]["problem"] == "'@image x.jpg is not used"
    assert list(map(of_csv_cell, (row["id"] for row in rows[:3]))) == IDS
    assert [row["genres"] for row in rows[:3]] == ["Drama", "Drama|War", ""]
    assert [row["logit/War"] for row in rows[:3]] == ["-2.0", "3.0", ""]
    assert pd.read_csv(tmp_path / "out.csv")["present/image"].tolist() == PRESENT[:, 1].tolist() * 2


def test_jsonl_has_an_object_per_row(tmp_path):
    write_predictions(tmp_path / "out.jsonl", [made().table()], {})
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert rows[1]["genres"] == ["Drama", "War"]
    assert rows[2]["prob/Drama"] is None and rows[2]["genres"] is None
    assert rows[1]["contribution/image/War"] == 0.25


def test_a_request_accepts_the_formats_that_are_written():
    assert tuple(WRITERS) == FORMATS


def test_every_format_has_the_same_bytes_for_the_same_rows(tmp_path):
    for suffix in ("parquet", "csv", "jsonl"):
        for name in ("a", "b"):
            write_predictions(tmp_path / f"{name}.{suffix}", [made().table()], form().about())
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("out.xlsx", r"names no format: give a file that ends in \.parquet, \.csv, \.jsonl"),
        ("folder.csv", "is a folder: give a file in it"),
        ("run/predictions/test.parquet", "lies in the folder of a run, which keeps its own files"),
    ],
)
def test_an_impossible_output_is_refused(tmp_path, name, sentence):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "run/predictions").mkdir(parents=True)
    for file in ("config.yaml", "status.json"):
        (tmp_path / "run" / file).write_text("{}")
    with pytest.raises(UserError, match=sentence):
        check_output(tmp_path / name)
    check_output(tmp_path / "fine.csv")
