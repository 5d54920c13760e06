"""Runs, sweeps and comparisons in a notebook: their tables, and their HTML."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from gmu_lightning.api import Run, Sweep
from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.leaderboard import rows, write_leaderboard
from gmu_lightning.report.sentences import ends
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under
from tests.report.made_runs import Sweep as MadeSweep
from tests.report.made_runs import write_diagnosis


@pytest.fixture
def made(tmp_path) -> MadeSweep:
    return MadeSweep(tmp_path / "sweep")


def ended(made: MadeSweep) -> Sweep:
    """Write the status of a sweep whose runs all finished, and open it."""
    jobs = [
        {"folder": run.folder.name, "overrides": run.overrides, "state": "finished", "why": None}
        for run in runs_under(made.folder)
    ]
    write_json(
        made.folder / "status.json", {"state": "finished", "jobs": jobs, "not_begun": [], "finished": len(jobs), "failed": 0}
    )
    return Sweep(made.folder)


def test_a_leaderboard_has_the_columns_and_values_of_the_file(made):
    made.three_settings()
    board = ended(made).leaderboard
    write_leaderboard(made.folder, rows(settings_of(runs_under(made.folder))))
    stored = pd.read_csv(made.folder / "leaderboard.csv", dtype={"setting": str}, keep_default_na=False)
    assert list(board.columns) == list(stored.columns)
    assert list(board["fusion"]) == list(stored["fusion"])
    assert list(board["test/f1_micro/mean"]) == list(stored["test/f1_micro/mean"])


def test_a_leaderboard_shows_intervals_letters_and_the_verdict(made):
    made.three_settings()
    found = ended(made)
    comparison = found.compare().comparison
    shown = found.leaderboard._repr_html_()
    for one in comparison.settings:
        assert f"{one.scored('f1_micro').mean:.3f}" in shown
        assert ends(one.scored("f1_micro").interval) in shown
    assert "gmu_original is the best" in shown.replace(" text+image", "")
    assert "Settings that share a letter" in shown
    assert shown.count("<tr>") == 4
    assert "<table" not in found.leaderboard[["fusion"]].to_string()


def test_names_are_escaped(made):
    made.three_seeds("<b>bold<b>&", 2.0)
    made.three_seeds("mean", 0.5)
    found = ended(made)
    for shown in (
        found.leaderboard._repr_html_(),
        found.compare()._repr_html_(),
        found.runs[0]._repr_html_(),
        found._repr_html_(),
    ):
        assert "<b>" not in shown
    assert "&lt;b&gt;bold&lt;b&gt;&amp;" in found.leaderboard._repr_html_()


def test_a_board_without_intervals_gives_the_reason(made):
    (run, *_) = made.three_seeds()
    (run / "predictions/test.parquet").unlink()
    for other in runs_under(made.folder)[1:]:
        (other / "predictions/test.parquet").unlink()
    shown = ended(made).leaderboard._repr_html_()
    assert "No intervals: none of these runs finished" in shown
    assert "test/f1_micro/mean" in shown


def test_a_comparison_has_pairs_settings_and_a_summary(made):
    made.rivals()
    compared = ended(made).compare(metric="ap_micro")
    assert compared.summary.startswith("gmu_original is the best: it beats the other setting. Whether its gates are")
    (pair,) = compared.pairs.to_dict("records")
    assert (pair["a"], pair["b"], pair["verdict"]) == ("gmu_original", "concat", "a")
    assert pair["low"] < pair["difference"] < pair["high"]
    assert pair["sentence"].startswith("gmu_original beats concat by")
    assert list(compared.settings["name"]) == ["gmu_original", "concat"]
    assert pair["sentence"] in compared._repr_html_().replace("&lt;", "<")
    assert repr(compared) == compared.summary


def test_a_comparison_is_against_one_setting(made):
    made.three_settings()
    compared = ended(made).compare(against="concat")
    assert set(compared.pairs["b"]) | set(compared.pairs["a"]) == set(compared.settings["name"])
    assert len(compared.pairs) == 2
    with pytest.raises(UserError, match="metric=f2 is no score"):
        ended(made).compare(metric="f2")


def test_a_comparison_has_its_checklist_and_diagnoses(made):
    runs = made.rivals()
    before = ended(made).compare()
    assert before.diagnoses == [] and before.checklist.columns.tolist() == ["item", "ok", "why", "proof", "command"]
    row = before.checklist.set_index("item").loc["The gates are diagnosed"]
    assert not row["ok"] and row["proof"] == runs[0].folder.name and row["command"].endswith(f",{runs[2].folder} diagnose=true")
    for run in runs[:3]:
        write_diagnosis(run)
    after = ended(made).compare()
    assert after.checklist.set_index("item").loc["The gates are diagnosed", "ok"]
    assert after.diagnoses[0].startswith("gmu_original: permuting the gates among movies costs ")


def test_a_run_gives_tables(made):
    run = Run(made.run("gmu_original").folder)
    assert run.history["epoch"].tolist() == [0, 1, 2, 3]
    assert run.history["val/f1_micro"].dtype == float
    predictions = run.predictions("val")
    assert len(predictions) == run.metrics["val/movies"]
    stored = pd.read_parquet(run / "predictions/val.parquet")
    assert list(predictions.columns) == list(stored.columns)
    assert predictions["id"].tolist() == stored["id"].tolist()
    assert run.warnings == []
    assert Path(os.fspath(run)) == run.folder
    shown = run._repr_html_()
    assert f"{run.metrics['test/f1_micro']:.3f}" in shown
    assert "gmu_original on text+image, seed 1: finished" in shown


def test_a_run_shows_its_warnings(made):
    made_run = made.run()
    status = made_run.status | {"warnings": ["flat_loss: the loss <did not> fall"]}
    write_json(made_run / "status.json", status)
    assert "<li>flat_loss: the loss &lt;did not&gt; fall</li>" in Run(made_run.folder)._repr_html_()


def test_other_folders_are_refused(made, tmp_path):
    made.run()
    with pytest.raises(UserError, match="is no run's folder"):
        Run(tmp_path)
    for folder in (tmp_path, tmp_path / "absent", next(made.folder.iterdir())):
        with pytest.raises(UserError, match="is no sweep's folder: give one that"):
            Sweep(folder)


def test_a_run_with_one_label_each_shows_its_accuracy(tmp_path):
    made = MadeSweep(tmp_path / "sweep", task="multiclass")
    made.rivals()
    found = ended(made)
    assert found.compare().comparison.metric == "accuracy"
    shown = found.runs[0]._repr_html_()
    assert ">accuracy<" in shown
    assert ">micro F1<" not in shown
    assert ">accuracy<" in found.leaderboard._repr_html_()
