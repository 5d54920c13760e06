"""A sweep's W&B workspace and report, as W&B would store them."""

from __future__ import annotations

import json

import pytest

from gmu_lightning.report.comparison import compare

from .made import GENRES, Sweep

pytest.importorskip("wandb_workspaces")

from gmu_lightning.report.dashboard import CURVES, SCORES, Dashboard


@pytest.fixture
def dashboard(tmp_path) -> Dashboard:
    sweep = Sweep(tmp_path / "sweep")
    return Dashboard("team", "gmu_lightning", "my sweep", compare(sweep.rivals()))


def panels(dashboard: Dashboard) -> list[dict]:
    spec = dashboard.definition()["workspace"]["spec"]
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def test_scores_genres_gates_and_curves_each_have_panels(dashboard):
    shown = [panel["config"].get("metrics", []) for panel in panels(dashboard)]
    assert all([score] in shown for score in (*SCORES, *CURVES))
    assert all([f"test/{kind}/{genre}"] in shown for kind in ("f1", "ap") for genre in GENRES)
    media = [panel["config"]["mediaKeys"] for panel in panels(dashboard) if "mediaKeys" in panel["config"]]
    assert media == [["figures/by_genre", "figures/genres"]]


def test_bars_are_means_over_a_fusion_s_runs_with_their_deviation(dashboard):
    bars = [panel["config"] for panel in panels(dashboard) if panel["viewType"] == "Bar Chart"]
    assert {(bar["groupBy"], bar["groupAgg"], bar["groupArea"]) for bar in bars} == {("choices.value.fusion", "mean", "stddev")}


def test_only_the_sweep_s_jobs_are_shown_grouped_by_what_they_are(dashboard):
    (runs,) = dashboard.definition()["workspace"]["spec"]["section"]["runSets"]
    kept = [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]]
    assert ("group", "=", "my sweep") in kept
    assert {value for name, op, value in kept if op == "!="} == {"comparison", "trial"}
    assert [key["name"] for key in runs["grouping"]] == ["modalities.value", "choices.value.fusion"]


def test_both_say_what_can_be_claimed(dashboard):
    text = json.dumps(dashboard.definition())
    assert text.count("gmu_original beats concat by") == 2
    assert dashboard.definition()["report"]["project"]["name"] == "gmu_lightning"
