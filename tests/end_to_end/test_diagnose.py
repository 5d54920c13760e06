"""Finished runs are diagnosed: one, several, and those of a sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.data.store import Store
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.report.diagnosis import Diagnosis, of_setting
from gmu_lightning.run import Run

from .shell import last_line, typed


@pytest.fixture(scope="module")
def gated(train) -> Run:
    """A finished run of a GMU."""
    return train("fusion=gmu_original")


@pytest.fixture(scope="module")
def folder(gated, store) -> Path:
    """The folder of its diagnosis on test."""
    return evaluate(gated, "test", None, "0.5", Store(store), diagnose_seed=0)


def content(folder: Path) -> dict:
    return json.loads((folder / "diagnosis.json").read_text())


def test_diagnosis_has_the_scores_of_the_run(gated, folder):
    found = content(folder)
    for metric in ("f1_micro", "ap_micro"):
        assert found["score"][metric] == pytest.approx(gated.metrics[f"test/{metric}"], abs=1e-6)
        worth = sum(found["shapley"][m][metric] for m in ("text", "image"))
        assert worth == pytest.approx(found["score"][metric] - found["empty"][metric], abs=1e-9)
        for change in ("gates_permuted", "gates_mean", "emap"):
            mean, low, high = (found[change][metric][end] for end in ("mean", "low", "high"))
            assert low <= mean <= high
            cost = found[f"{change}_difference"][metric]["mean"]
            assert cost == pytest.approx(found["score"][metric] - mean, abs=1e-9)
    genres = set(gated.predictions("test").genres)
    assert set(found["shapley_by_genre"]) == set(found["information_bits"]) == genres
    bits = next(one for one in found["information_bits"].values() if one["joint"] is not None)
    assert bits["joint"] == pytest.approx(bits["redundant"] + sum(bits["unique"].values()), abs=1e-9)


def test_the_same_seed_gives_the_same_diagnosis(gated, folder, store):
    again = evaluate(gated, "test", None, "0.5", Store(store), diagnose_seed=0)
    assert content(again) == content(folder)
    other = evaluate(gated, "test", None, "0.5", Store(store), diagnose_seed=1)
    assert content(other)["gates_permuted"] != content(folder)["gates_permuted"]
    assert content(other)["emap"] == content(folder)["emap"]  # all pairings need no draw
    for path in (again, other):
        shutil.rmtree(path)


def test_val_is_calibrated_on_its_own_halves(gated, folder, store):
    found = content(evaluate(gated, "val", None, "0.5", Store(store), diagnose_seed=0))
    assert (found["split"], found["calibrated_on"]) == ("val", "halves of val")
    assert content(folder)["calibrated_on"] == "val"
    newest = Diagnosis.of(gated)
    assert newest is not None
    assert newest.split == "test"


def test_sequences_are_diagnosed(train, store):
    run = train("fusion=mult_gmu", "fusion.layers=1", "fusion.heads=2")
    found = content(evaluate(run, "test", None, "0.5", Store(store), diagnose_seed=0))
    assert found["score"]["ap_micro"] == pytest.approx(run.metrics["test/ap_micro"], abs=1e-6)
    assert found["gates_permuted"] is not None
    assert found["emap"] is not None


def test_a_command_diagnoses_the_runs_of_a_folder(gated, store, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(gated.folder, tmp_path / "sweep" / name, ignore=shutil.ignore_patterns("evaluate"))
    done = typed("evaluate", "run=sweep", "diagnose=true", folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test micro F1") == 2
    assert "permuting the gates among movies costs" in done.stdout
    runs = [Run(tmp_path / "sweep" / name) for name in ("a", "b")]
    found = of_setting(runs)
    assert found is not None
    assert (found.runs, found.over_seeds) == (2, False)
    assert np.isclose(found.measures["score/ap_micro"].mean, gated.metrics["test/ap_micro"], atol=1e-6)


def test_several_runs_go_on_after_a_broken_one(gated, store, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(gated.folder, tmp_path / name, ignore=shutil.ignore_patterns("evaluate"))
    (tmp_path / "a/checkpoints/best.ckpt").unlink()
    done = typed("evaluate", "run=a,b", folder=tmp_path, store=store)
    assert done.returncode == 1
    assert done.stdout.count("test micro F1") == 1
    assert "1 of 2 runs could not be evaluated" in last_line(done.stderr)


def test_a_folder_without_finished_runs_is_refused(tmp_path, store):
    (tmp_path / "sweep/a").mkdir(parents=True)
    status = {"state": "failed", "why": "no", "warnings": [], "started": "x", "identity": "x", "setting": "x"}
    (tmp_path / "sweep/a/status.json").write_text(json.dumps(status))
    done = typed("evaluate", "run=sweep", "diagnose=true", folder=tmp_path, store=store)
    assert done.returncode == 1
    assert "holds no finished run" in last_line(done.stderr)
