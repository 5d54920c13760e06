"""Settings that were tested on other movies than the rest: told apart, ranked by themselves, and in nobody's table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gmu_lightning.report.comparison import Comparison, compare
from gmu_lightning.report.latex import latex
from gmu_lightning.report.markdown import markdown, write
from gmu_lightning.report.page.movies import chosen_movies
from gmu_lightning.report.page.shown import Shown, ShownMovie
from gmu_lightning.report.page.write import page
from gmu_lightning.run import Run, runs_under

from .made import GENRES, Sweep, put
from .reading import Tables


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Two settings on 80 test movies, and one that scores far better on ten others."""
    folder = tmp_path / "sweep"
    Sweep(folder).rivals()
    other = Sweep(folder, {"val": 30, "test": 10}, ("Western", *GENRES[::-1]), {"movies": "m2", "text": "t2", "image": "i2"})
    other.three_seeds("mean", 9.0)
    return runs_under(folder)


@pytest.fixture
def found(runs) -> Comparison:
    return compare(runs)


def test_most_settings_come_first_however_well_another_scored(found):
    assert [one.name for one in found.settings] == ["gmu_original", "concat", "mean"]
    assert found.settings[2].scored("f1_micro").mean > found.settings[0].scored("f1_micro").mean
    assert [one.name for one in found.alike] == ["gmu_original", "concat"]
    assert found.letters == {"gmu_original": "a", "concat": "b"}
    assert found.verdict.startswith("gmu_original is the best: it beats the other setting.")
    assert found.verdict.endswith("Tested on other movies, genres or labels, or at another threshold: mean.")


def test_files_say_which_movies_are_meant(found, tmp_path):
    write(found, tmp_path)
    said = json.loads((tmp_path / "comparison.json").read_text())
    assert said["movies"] == 80
    assert {one["name"]: one["movies"] for one in said["settings"]} == {"gmu_original": 80, "concat": 80, "mean": 10}
    assert "# Micro F1 on 80 test movies" in markdown(found)
    assert "| mean, tested otherwise (10 movies) |" in markdown(found)


def test_a_table_for_a_paper_leaves_them_out_and_says_so(found):
    text = latex(found)
    assert [line.split(" & ")[0] for line in text.splitlines() if "text+image" in line] == [r"gmu\_original", "concat"]
    assert "Per cent on 80 test movies" in text
    assert "% Left out, being tested on other movies, genres or labels, or at another threshold: mean." in text


def test_a_page_has_them_in_the_leaderboard_alone(runs, found):
    text = page(found, runs, Shown({movie: ShownMovie("A plot.", None) for movie in chosen_movies(found)}))
    tables = [t for t in Tables(text).tables if t[0][0][0] == "setting"]
    assert {row[0][0] for table in tables for row in table[1:]} == {"gmu_original", "concat"}
    assert "and therefore in no chart and no table but the leaderboard" in text
    assert "80 test movies (1 setting otherwise)" in text
    assert "tested on other movies, genres or labels, or at another threshold (10 movies)" in text
    assert "of 2 settings; the best is gmu_original" in text


def test_other_labels_of_the_same_movies_are_other_movies(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    runs = sweep.rivals()
    for run in sweep.three_seeds("mean"):
        said = run.predictions("test")
        said.labels = np.roll(said.labels, 1, axis=0)
        put(run, said)
        runs.append(run)
    assert [one.name for one in compare(runs).apart] == ["mean"]


def test_runs_whose_fingerprints_agree_where_both_speak_are_of_one_data_set(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    sweep.run("mean", 1)
    sweep.fingerprint = {**sweep.fingerprint, "more": "x"}
    runs = [sweep.run("mean", 1), sweep.run("mean", 2), sweep.run("mean", 3)]
    (setting,) = compare(runs_under(sweep.folder)).settings
    assert setting.setting.seeds == ["1", "2", "3"]
    assert not setting.setting.warnings
    assert {run.folder for run in setting.setting.finished} >= {runs[1].folder, runs[2].folder}
