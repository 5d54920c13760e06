"""The W&B workspace and report of a sweep have panels, filters and groups in W&B's stored form."""

from __future__ import annotations

import json

import pytest

from gmu_lightning.report.comparison import compare

from .made_runs import GENRES, Sweep

pytest.importorskip("wandb_workspaces")

from gmu_lightning.report.wandb_dashboard import CURVES, SCORES, Dashboard


@pytest.fixture
def dashboard(tmp_path) -> Dashboard:
    sweep = Sweep(tmp_path / "sweep")
    return Dashboard("team", "gmu_lightning", "my sweep", compare(sweep.rivals()))


def panels(dashboard: Dashboard) -> list[dict]:
    spec = dashboard.definition()["workspace"]["spec"]
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def report_panels(definition: dict) -> dict:
    """Return the metadata of the report's panels."""
    (grid,) = (block for block in definition["report"]["spec"]["blocks"] if block["type"] == "panel-grid")
    return grid["metadata"]


def test_panels_cover_scores_genres_gates_and_curves(dashboard):
    shown = [panel["config"].get("metrics", []) for panel in panels(dashboard)]
    assert all([score] in shown for score in (*SCORES, *CURVES))
    assert all([f"test/{kind}/{genre}"] in shown for kind in ("f1", "ap") for genre in GENRES)
    media = [panel["config"]["mediaKeys"] for panel in panels(dashboard) if "mediaKeys" in panel["config"]]
    assert media == [["figures/by_genre", "figures/genres"]]


def test_panels_of_single_labels_show_accuracy(tmp_path):
    sweep = Sweep(tmp_path / "sweep", task="multiclass")
    shown = panels(Dashboard("team", "gmu_lightning", "my sweep", compare(sweep.rivals())))
    metrics = [metric for panel in shown for metric in panel["config"].get("metrics", [])]
    assert "test/accuracy" in metrics
    assert not [metric for metric in metrics if "@" in metric or metric == "test/f1_micro"]


def test_panels_show_means_and_deviations_of_groups(dashboard):
    drawn = [panel["config"] for panel in panels(dashboard) if panel["viewType"] in ("Bar Chart", "Run History Line Plot")]
    assert {(one["groupAgg"], one["groupArea"]) for one in drawn} == {("mean", "stddev")}
    assert not any(one.get("groupBy") for one in drawn)  # a panel's own grouping takes one key only


def test_runs_are_grouped_by_all_varying_keys(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    runs = [
        run
        for lr in (0.1, 0.2)
        for name in ("tiny", "minilm")
        for run in sweep.three_seeds(
            "concat",
            1.0 + lr,
            typed=[f"optimizer.lr={lr}", f"encoder/text={name}"],
            optimizer={"lr": lr},
            choices={"encoder/text": name},
            encoder={"text": {"name": name}},
        )
    ]
    definition = Dashboard("team", "gmu_lightning", "my sweep", compare(runs)).definition()
    (shown,) = definition["workspace"]["spec"]["section"]["runSets"]
    keys = [key["name"] for key in shown["grouping"]]
    assert keys[:2] == ["modalities.value", "choices.value.fusion"]
    assert set(keys[2:]) == {"optimizer.value.lr", "choices.value.encoder/text"}
    (in_report,) = report_panels(definition)["runSets"]
    assert [key["name"] for key in in_report["grouping"]] == keys


def test_report_shows_only_the_sweep_s_jobs(dashboard):
    grid = report_panels(dashboard.definition())
    (runs,) = grid["runSets"]
    kept = str(runs["filters"])
    assert all(word in kept for word in ("my sweep", "comparison", "trial"))
    shown = [panel["config"].get("metrics", []) for panel in grid["panelBankSectionConfig"]["panels"]]
    assert all([score] in shown for score in SCORES)


def test_workspace_shows_only_the_sweep_s_jobs(dashboard):
    (runs,) = dashboard.definition()["workspace"]["spec"]["section"]["runSets"]
    kept = [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]]
    assert ("group", "=", "my sweep") in kept
    assert {value for name, op, value in kept if op == "!="} == {"comparison", "trial"}
    assert [key["name"] for key in runs["grouping"]] == ["modalities.value", "choices.value.fusion"]


def test_workspace_and_report_have_the_claims(dashboard):
    text = json.dumps(dashboard.definition())
    assert text.count("gmu_original beats concat by") == 2
    assert dashboard.definition()["report"]["project"]["name"] == "gmu_lightning"
