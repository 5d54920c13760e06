"""Records of the loggers, read back from W&B's own offline files and from TensorBoard's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gmu_lightning.experiment.loggers import log_comparison, open_loggers, wandb_of
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import perform_in_sweep

from .wandb_offline import OfflineRun, read_offline_run, records

BOTH = ("logger=[wandb,tensorboard]", "logger.wandb.mode=offline", "logger.wandb.tags=[mine]")


@pytest.fixture(scope="module")
def sweep(job, tmp_path_factory) -> Path:
    """Two seeds that finish and one job that fails, offline."""
    folder = tmp_path_factory.mktemp("loggers") / "my sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        for words in (("seed=1",), ("seed=2",), ("seed=3", "optimizer.lr=1e30")):
            made = job(*words, *BOTH, sweep=folder.name)
            perform_in_sweep(replace(made, folder=str(folder / words[0])))
    return folder


@pytest.fixture(scope="module")
def recorded(sweep) -> Callable[[int], OfflineRun]:
    """(seed) -> the W&B record of its job."""
    return lambda seed: read_offline_run(sweep / f"seed={seed}")


def test_two_jobs_are_two_runs_of_one_group(recorded):
    one, two = recorded(1), recorded(2)
    assert one.id != two.id
    assert (one.name, two.name) == ("seed=1", "seed=2")
    assert one.group == two.group == "my sweep"
    assert one.project == two.project == "gmu_lightning"
    assert {"mine", "gmu_original", "text+image", "planted", "tiny"} <= one.tags


@pytest.mark.parametrize("seed", [1, 2])
def test_the_summary_is_metrics_json(sweep, recorded, seed):
    summary, metrics = recorded(seed).summary, Run(sweep / f"seed={seed}").metrics
    assert metrics["test/f1_micro"] > 0
    assert {key: summary.get(key) for key in metrics} == metrics


def test_the_configuration_is_the_runs_own(sweep, recorded):
    config = Run(sweep / "seed=1").config
    told = recorded(1).config
    assert {key: told[key] for key in config} == json.loads(json.dumps(config))


def test_gates_and_genres_are_shown_as_images(recorded):
    shown = {key: row[key] for row in recorded(1).history for key in row if key.endswith("/_type")}
    assert shown == {"figures/by_genre/_type": "image-file", "figures/genres/_type": "image-file"}


def test_scores_are_logged_once_an_epoch(sweep, recorded):
    header, *rows = (line.split(",") for line in (sweep / "seed=1/history.csv").read_text().splitlines())
    for name in ("train/loss", "val/ap_micro"):
        logged = [row[name] for row in recorded(1).history if name in row]
        assert logged == pytest.approx([float(row[header.index(name)]) for row in rows], abs=1e-6)


def test_each_run_ends_as_its_job_did(sweep, recorded):
    assert [recorded(seed).exit_code for seed in (1, 2, 3)] == [0, 0, 1]
    assert [Run(sweep / f"seed={seed}").status["state"] for seed in (1, 2, 3)] == ["finished", "finished", "failed"]


def test_tensorboard_stands_beside_wandb(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(sweep / "seed=1/tensorboard"))
    events.Reload()
    metrics = Run(sweep / "seed=1").metrics
    assert events.Scalars("test/f1_micro")[-1].value == pytest.approx(metrics["test/f1_micro"], abs=1e-6)
    assert len(events.Scalars("val/ap_micro")) == metrics["epochs"] + 1  # an epoch each, and the chosen one's at the end


def test_an_unknown_mode_is_answered_in_a_sentence(job, tmp_path):
    config = job("logger=wandb", "logger.wandb.mode=offlin").config
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=offlin is none of online, offline and disabled"):
        open_loggers(config, Run(tmp_path), None)


def test_a_sweep_logs_its_leaderboard_and_files_to_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", "")
    monkeypatch.delenv("WANDB_DATA_DIR")
    folder = tmp_path / "my sweep"
    folder.mkdir()
    (folder / "leaderboard.csv").write_text("fusion,seeds\nmean,3\n")
    (folder / "report.html").write_text("<!doctype html>")
    node = {"project": "gmu_lightning", "entity": None, "mode": "offline"}
    log_comparison(node, folder, ["fusion", "seeds"], [["mean", 3]])
    told = read_offline_run(folder)
    assert (told.name, told.group, told.project, told.exit_code) == ("my sweep comparison", "my sweep", "gmu_lightning", 0)
    (row,) = [row for row in told.history if "leaderboard/_type" in row]
    assert (row["leaderboard/_type"], row["leaderboard/ncols"], row["leaderboard/nrows"]) == ("table-file", 2, 1)
    (table,) = folder.rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["mean", 3]]
    (log,) = folder.rglob("*.wandb")
    artifacts = [r.artifact if r.HasField("artifact") else r.request.log_artifact.artifact for r in records(log.read_bytes())]
    waiting = {e.path: Path(e.local_path) for a in artifacts if a.type == "comparison" for e in a.manifest.contents}
    assert set(waiting) == {"leaderboard.csv", "report.html"}
    for name, copied in waiting.items():
        assert copied.is_relative_to(folder)
        assert copied.read_text() == (folder / name).read_text()


def test_a_sweep_is_told_where_its_jobs_are(sweep):
    assert wandb_of([Run(sweep / "seed=1")])["mode"] == "offline"
    assert wandb_of([]) is None
