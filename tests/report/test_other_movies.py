"""Settings on other movies than the majority are ranked separately and left out of tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gmu_lightning.report.comparison import Comparison, compare
from gmu_lightning.report.leaderboard import latex
from gmu_lightning.report.page.movies import ExampleMovie, ExampleMovies, chosen_movies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import markdown, summary, write
from gmu_lightning.run import Run, runs_under

from .made_runs import GENRES, Sweep, replace_predictions
from .page_reader import Tables


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Return runs of two settings on 80 test movies, and of one that scores far better on ten other movies."""
    folder = tmp_path / "sweep"
    Sweep(folder).rivals()
    other = Sweep(folder, {"val": 30, "test": 10}, ("Western", *GENRES[::-1]), {"movies": "m2", "text": "t2", "image": "i2"})
    other.three_seeds("mean", 9.0)
    return runs_under(folder)


@pytest.fixture
def found(runs) -> Comparison:
    return compare(runs)


def test_settings_of_the_majority_come_first(found):
    assert [one.name for one in found.settings] == ["gmu_original", "concat", "mean"]
    assert found.settings[2].scored("f1_micro").mean > found.settings[0].scored("f1_micro").mean
    assert [one.name for one in found.alike] == ["gmu_original", "concat"]
    assert found.letters == {"gmu_original": "a", "concat": "b"}
    assert summary(found).startswith("gmu_original is the best: it beats the other setting.")
    assert summary(found).endswith("Tested on other movies, genres or labels, or at another threshold: mean.")


def test_files_count_movies_per_setting(found, tmp_path):
    write(found, tmp_path)
    predicted = json.loads((tmp_path / "comparison.json").read_text())
    assert predicted["movies"] == 80
    assert {one["name"]: one["movies"] for one in predicted["settings"]} == {"gmu_original": 80, "concat": 80, "mean": 10}
    assert "# Micro F1 on 80 test movies" in markdown(found)
    assert "| mean, tested otherwise (10 movies) |" in markdown(found)


def test_latex_omits_settings_on_other_movies(found):
    text = latex(found)
    assert [line.split(" & ")[0] for line in text.splitlines() if "text+image" in line] == [r"gmu\_original", "concat"]
    assert "Per cent on 80 test movies" in text
    assert "% Left out, being tested on other movies, genres or labels, or at another threshold: mean." in text


def test_page_lists_them_only_in_the_leaderboard(runs, found):
    text = page(found, runs, ExampleMovies({movie: ExampleMovie("A plot.", None) for movie in chosen_movies(found)}))
    tables = [t for t in Tables(text).tables if t[0][0][0] == "setting"]
    assert {row[0][0] for table in tables for row in table[1:]} == {"gmu_original", "concat"}
    assert "Tested on other movies, genres or labels, or at another threshold, so they are in the leaderboard only: mean." in text
    assert "80 (1 setting otherwise)" in text
    assert "tested on other movies, genres or labels, or at another threshold (10 movies)" in text
    assert "gmu_original is the best: it beats the other setting." in text
    assert "Predictions of 2 settings" in text


def test_other_labels_count_as_other_movies(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    runs = sweep.rivals()
    for run in sweep.three_seeds("mean"):
        predicted = run.predictions("test")
        predicted.labels = np.roll(predicted.labels, 1, axis=0)
        replace_predictions(run, predicted)
        runs.append(run)
    assert [one.name for one in compare(runs).apart] == ["mean"]


def test_fingerprints_agree_on_their_shared_parts(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    sweep.run("mean", 1)
    sweep.fingerprint = {**sweep.fingerprint, "more": "x"}
    runs = [sweep.run("mean", 1), sweep.run("mean", 2), sweep.run("mean", 3)]
    (setting,) = compare(runs_under(sweep.folder)).settings
    assert setting.setting.seeds == ["1", "2", "3"]
    assert not setting.setting.warnings
    assert {run.folder for run in setting.setting.finished} >= {runs[1].folder, runs[2].folder}
