"""`compare` as it is typed: paths as they are, its files, its words, and its exit code."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gmu_lightning.data.planted import generate
from gmu_lightning.files import write_json
from gmu_lightning.report.discovery import runs_in
from gmu_lightning.report.reproduce import more_seeds
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import Run

from ..report.made_runs import Sweep
from .shell import PATIENCE, SMOKE, environment, last_line, typed


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two settings of three seeds, in a folder that a user may well have."""
    made = Sweep(tmp_path / "my sweeps, (old)=1")
    made.rivals()
    return made.folder


def test_a_comparison_is_printed_and_kept(sweep, tmp_path):
    done = typed("compare", f"runs={sweep}", "output=found", "against=concat", folder=tmp_path, store=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found/comparison.json").read_text())
    assert [one["name"] for one in found["settings"]] == ["gmu_original", "concat"]
    assert found["pairs"][0]["sentence"] in done.stdout
    assert found["against"] == "concat"
    assert (tmp_path / "found/comparison.md").read_text() in done.stdout
    checks = json.loads((tmp_path / "found/checklist.json").read_text())
    assert checks[0]["ok"] and checks[0]["proof"] == "leaderboard.csv" and (tmp_path / "found/leaderboard.csv").exists()
    assert all(Path(tmp_path / "found", one["proof"]).exists() for one in checks)
    assert "items of the checklist are met" in (tmp_path / "found/checklist.md").read_text()
    assert 'id="checklist"' in (tmp_path / "found/report.html").read_text() and "found/checklist.md" in done.stdout
    assert not list(sweep.glob("comparison*"))


def test_several_folders_are_compared_together(tmp_path):
    for folder, fusion in (("one", "mean"), ("two", "concat")):
        Sweep(tmp_path / folder).three_seeds(fusion)
    done = typed("compare", f"runs=one,{tmp_path / 'two'}", "metric=ap_macro", folder=tmp_path, store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "# Macro AP on 80 test movies" in done.stdout
    assert "| mean | 3 |" in done.stdout
    assert "| concat | 3 |" in done.stdout
    (kept,) = (tmp_path / "outputs/compare").iterdir()
    assert (kept / "comparison.md").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs={sweep}/.."], "{sweep}/.. holds no run: it holds sweeps (my sweeps, (old)=1): give one of them"),
        (["runs="], "runs= names no folder: give the folder of a run or a sweep, or several with commas"),
        (["runs={sweep}", "output=/proc/x"], "output=/proc/x cannot be written to"),
        (["runs={sweep}", "output={run}"], "output={run} is the folder of a run, which keeps its own files"),
        (["runs={run}/metrics.json"], "{run}/metrics.json holds no run: give the folder of a run or a sweep"),
        (["runs=away"], "runs=away does not exist: give the folder of a run or a sweep"),
        (["runs={sweep}", "metric=f1"], "metric=f1 is no score: choose one of f1_micro, f1_macro"),
        (["runs={sweep}", "against=mean"], "against=mean names 0 of the settings: choose one, such as"),
        (["runs={sweep}", "metrics=f1_micro"], "metrics is no key of the configuration: did you mean metric"),
        ([], "a value is missing: give runs=VALUE on the command line"),
    ],
)
def test_what_was_typed_wrong_is_one_sentence(sweep, tmp_path, words, sentence):
    (sweep / "status.json").write_text('{"jobs": []}')
    names = {"sweep": sweep, "run": next(path.parent for path in sweep.glob("*/config.yaml"))}
    done = typed("compare", *(word.format(**names) for word in words), folder=tmp_path, store=tmp_path)
    assert done.returncode == 1
    assert last_line(done.stderr).startswith(sentence.format(**names))
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [sweep.name]


def test_a_dashboard_is_kept_as_a_file_without_wandb(sweep, tmp_path):
    pytest.importorskip("wandb_workspaces")
    away = {"WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    kept = typed("dashboard", f"runs={sweep}", "mode=offline", "output=board", folder=tmp_path, store=tmp_path, **away)
    assert kept.returncode == 0, kept.stderr
    assert {"workspace", "report"} == set(json.loads((tmp_path / "board/dashboard.json").read_text()))
    refused = typed("dashboard", f"runs={sweep}", "output=other", folder=tmp_path, store=tmp_path, **away)
    assert refused.returncode == 1
    assert "W&B could not be reached" in last_line(refused.stderr)
    assert (tmp_path / "other/dashboard.json").exists()


@pytest.mark.parametrize(
    ("name", "output", "sentence"),
    [
        ("it's", "board", "W&B's library takes no sweep of the name it's"),
        ("text+image", "/proc/x", "output=/proc/x cannot be written to"),
        ("text+image", "board", None),
    ],
)
def test_odd_dashboard_folders_work_or_end_in_a_sentence(tmp_path, name, output, sentence):
    pytest.importorskip("wandb_workspaces")
    Sweep(tmp_path / name).rivals()
    done = typed("dashboard", f"runs={name}", "mode=offline", f"output={output}", folder=tmp_path, store=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1 if sentence else 0, False), done.stderr
    if sentence:
        assert last_line(done.stderr).startswith(sentence)


def test_a_run_that_cannot_be_read_is_left_out_and_named(sweep, tmp_path):
    run = next(folder for folder in sweep.iterdir() if folder.is_dir())
    (run / "predictions/val.parquet").unlink()
    done = typed("compare", f"runs={sweep}", "output=found", folder=tmp_path, store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"left out: {run / 'predictions/val.parquet'} is damaged, for it is not there" in done.stderr
    left = json.loads((tmp_path / "found/comparison.json").read_text())["left_out"]
    assert [row["folder"] for row in left] == [str(run)]
    alone = typed("compare", f"runs={run}", folder=tmp_path, store=tmp_path)
    assert alone.returncode == 1
    assert last_line(alone.stderr).startswith(f"{run / 'predictions/val.parquet'} is damaged, for it is not there")


def test_scores_that_are_wanting_are_named(sweep, tmp_path):
    run = next(Run(folder) for folder in sweep.iterdir() if folder.is_dir())
    write_json(run / "metrics.json", {key: value for key, value in run.metrics.items() if key != "parameters/total"})
    done = typed("compare", f"runs={run.folder}", folder=tmp_path, store=tmp_path)
    assert done.returncode == 1
    assert last_line(done.stderr).startswith(f"{run / 'metrics.json'} lacks parameters/total: leave this run out")


def test_a_run_that_did_not_end_is_told_of(sweep, tmp_path):
    left = Sweep(sweep).run("mean", 9)
    left.end("running")
    done = typed("compare", f"runs={sweep}", folder=tmp_path, store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"left out, for it did not end: {left.folder}" in done.stderr
    assert f"{left.folder}: it did not end" in next((tmp_path / "outputs/compare").glob("*/comparison.md")).read_text()


def test_what_was_skipped_failed_or_lies_deeper_is_told_of(sweep, tmp_path):
    made = Sweep(sweep)
    made.run("none", 1).end("skipped", "none takes exactly one modality")
    made.run("sum", 1).end("failed", "the disk is full")
    deeper = Sweep(sweep / "deeper")
    deeper.three_seeds("mean")
    write_json(deeper.folder / "status.json", {"state": "finished", "why": None, "jobs": []})
    done = typed("compare", f"runs={sweep}", "output=found", folder=tmp_path, store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 8 combinations is invalid and left out: leaderboard.md lists it" in done.stderr
    assert ": the disk is full" in done.stderr
    assert f"left out, for it is a sweep, which is compared if it is named too: {deeper.folder}" in done.stderr
    board = (tmp_path / "found/leaderboard.md").read_text()
    assert "none takes exactly one modality" in board
    assert "the disk is full" in board


@pytest.mark.heavy
def test_movies_that_were_changed_since_are_not_shown(tmp_path):
    generated = tmp_path / "movies"
    tiny = ("encoder/text=tiny", "encoder/image=tiny", "trainer.max_epochs=1", "trainer.threads=1")
    words = ("-m", *tiny, f"data.root={generated}", "fusion=mean,gmu_original", "hydra.sweep.dir=made")
    generate(generated, movies=60, seed=1)
    first = typed("train", *words, folder=tmp_path, store=tmp_path / "store")
    assert first.returncode == 0, first.stderr
    assert "no movies" not in first.stderr
    assert 'id="movies"' in (tmp_path / "made/report.html").read_text()
    shutil.rmtree(generated)
    generate(generated, movies=60, seed=2)  # the same ids
    again = typed("compare", "runs=made", "output=again", folder=tmp_path, store=tmp_path / "store")
    assert again.returncode == 0, again.stderr
    assert f"the report shows no movies: {generated} holds other data now" in again.stderr
    text = (tmp_path / "again/report.html").read_text()
    assert 'id="movies"' not in text
    assert "r(gate, truth)" not in text


@pytest.mark.heavy
def test_the_command_for_more_seeds_adds_them_to_the_sweep(tmp_path, raw):
    """Typed as it is printed, from another folder."""
    launcher = ("hydra/launcher=processes", "hydra.launcher.n_jobs=1")
    words = ("-m", *SMOKE, f"data.root={raw}", "fusion=mean,concat", "seed=1,2,3", *launcher, "hydra.sweep.dir=made")
    first = typed("train", *words, folder=tmp_path, store=tmp_path / "store")
    assert first.returncode == 0, first.stderr
    before = {run.folder: (run / "metrics.json").stat().st_mtime_ns for run in runs_in([tmp_path / "made"])}
    mean = next(one for one in settings_of(runs_in([tmp_path / "made"])) if one.values["fusion"] == "mean")
    line = more_seeds(mean, 5)
    assert "seed=4,5" in line
    assert all(word in line for word in launcher)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program, *arguments = shlex.split(line)
    assert program == "python"
    again = subprocess.run(
        [sys.executable, *arguments],
        cwd=elsewhere,
        env=environment(tmp_path / "store"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    with (tmp_path / "made/leaderboard.csv").open(newline="") as file:
        seeds = {row["fusion"]: row["seed_list"] for row in csv.DictReader(file)}
    assert seeds == {"mean": "1,2,3,4,5", "concat": "1,2,3"}
    assert all((folder / "metrics.json").stat().st_mtime_ns == time for folder, time in before.items())
    assert "mean" in (tmp_path / "made/report.html").read_text()
