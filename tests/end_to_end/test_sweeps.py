"""A sweep runs the valid jobs, survives failures, and writes a table of the finished runs."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from .shell import PATIENCE, SMOKE, command, environment, last_line, typed
from .wandb_offline import read_offline_run

SCORES = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro")
SUMMARIES = [f"{split}/{score}/{summary}" for split in ("test", "val") for score in SCORES for summary in ("mean", "sd")]
OFFLINE = ("logger=wandb", "logger.wandb.mode=offline")
KILLER = """
import os, signal
import pytorch_lightning as pl

class Kill(pl.Callback):
    def __init__(self, seed):
        self.seed = seed

    def on_train_start(self, trainer, model):
        if model.about["config"]["seed"] == self.seed:
            os.kill(os.getpid(), signal.SIGKILL)
"""


class Sweep(NamedTuple):
    """A sweep's folder, exit code and output."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def status(self) -> dict[str, Any]:
        return read_json(self.folder / "status.json")

    @property
    def leaderboard(self) -> list[dict[str, str]]:
        return read_rows(self.folder / "leaderboard.csv")

    def jobs(self, state: str) -> list[dict[str, Any]]:
        return [job for job in self.status["jobs"] if job["state"] == state]

    def run(self, words: str) -> Path:
        """Return the only run whose folder begins with these words."""
        (found,) = self.folder.glob(f"{words}-*")
        return found


def read_json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predictions(run: Path, split: str) -> pd.DataFrame:
    return pd.read_parquet(run / "predictions" / f"{split}.parquet")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def sweep(home: Path) -> Callable[..., Sweep]:
    def run(name: str, *arguments: str, **variables: str) -> Sweep:
        said = typed("train", "-m", *SMOKE, *arguments, f"hydra.sweep.dir={name}", folder=home, store=home / "store", **variables)
        return Sweep(home / name, said.returncode, said.stdout, said.stderr)

    return run


@pytest.fixture(scope="module")
def crossed(sweep: Callable[..., Sweep]) -> Sweep:
    """Two fusions x two sets of modalities x three seeds, of which two are one: 12 jobs, one after the other."""
    return sweep("crossed", "fusion=none,gmu_original", "modalities=text,text+image", "seed=1,1,2")


@pytest.fixture(scope="module")
def parallel(sweep: Callable[..., Sweep], home: Path) -> Sweep:
    """Four jobs in processes of their own, of which two are one and the last is killed as its training starts."""
    (home / "killer.py").write_text(KILLER)
    return sweep(
        "parallel",
        "hydra/launcher=processes",
        "seed=1,1,2,3",
        *OFFLINE,
        "+callbacks.kill._target_=killer.Kill",
        "+callbacks.kill.seed=3",
        PYTHONPATH=os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]),
    )


@pytest.fixture(scope="module")
def failing(sweep: Callable[..., Sweep]) -> Sweep:
    """The first of two jobs cannot train."""
    return sweep("failing", "optimizer.lr=1e30,0.01", *OFFLINE)


def test_incompatible_pairs_are_skipped_with_exit_code_0(crossed):
    assert crossed.code == 0, crossed.err
    assert (crossed.status["state"], crossed.status["finished"], crossed.status["skipped"]) == ("finished", 4, 4)
    reasons = {(job["why"].split()[0], "modalities=text+image" in job["why"]) for job in crossed.jobs("skipped")}
    assert reasons == {("fusion=none", True), ("fusion=gmu_original", False)}


def test_skipped_jobs_leave_no_folder_and_one_line(crossed):
    assert {job["folder"] for job in crossed.jobs("skipped")} == {None}
    finished = {job["folder"] for job in crossed.jobs("finished")}
    assert {path.name for path in crossed.folder.iterdir() if path.is_dir()} == finished
    assert crossed.err.splitlines().count("4 of 8 combinations are invalid and left out: leaderboard.md lists them") == 1
    board = (crossed.folder / "leaderboard.md").read_text()
    for job in crossed.jobs("skipped"):
        assert f"- {job['why']} (`fusion=" in board
        assert job["why"] not in crossed.err


def test_two_seeds_are_announced_as_too_few(crossed):
    assert crossed.err.splitlines()[0].startswith("with 2 seeds of a setting no difference can be claimed: three are the least")


def test_a_sweep_ends_with_its_verdict_and_commands(crossed):
    words = " ".join(crossed.out.split())
    assert "Verdict: No difference can be claimed. " in words
    assert "Movies: 60 used (40 train, 10 val, 10 test), none lost." in words
    assert words.endswith(f"Open {crossed.folder}/report.html {crossed.folder}: 4 finished, 0 failed, 4 skipped")
    rerun, more = (shlex.split(line) for line in crossed.out.splitlines() if line.startswith("  python -m gmu_lightning.train"))
    best = crossed.leaderboard[0]
    assert {"seed=1,2", f"fusion={best['fusion']}", f"modalities={best['modalities']}"} <= set(rerun)
    assert {"seed=3", f"hydra.sweep.dir={crossed.folder}"} <= set(more)


@pytest.mark.heavy
def test_the_command_for_seeds_completes_the_sweep(crossed, home):
    (line,) = (line for line in crossed.out.splitlines() if "hydra.sweep.dir=" in line)
    copy = home / "copied"
    shutil.copytree(crossed.folder, copy)
    words = shlex.split(line.replace(str(crossed.folder), str(copy)))
    added = typed(words[2].removeprefix("gmu_lightning."), *words[3:], folder=home, store=home / "store")
    assert added.returncode == 0, added.stderr
    assert [row["seed_list"] for row in read_rows(copy / "leaderboard.csv")] == ["1,2,3"] * 2
    assert read_json(copy / "status.json")["skipped"] == 6
    assert "no difference can be claimed" not in added.stderr.splitlines()[0]


def test_a_sweep_lists_every_job_with_its_overrides(crossed):
    for job in crossed.jobs("finished"):
        assert (crossed.folder / job["folder"] / "overrides.txt").read_text().splitlines() == job["overrides"]
    chosen = Counter(tuple(sorted(o for o in job["overrides"] if "seed" in o or "fusion" in o)) for job in crossed.status["jobs"])
    assert chosen == {(f"fusion={fusion}", f"seed={seed}"): 2 for fusion in ("none", "gmu_original") for seed in (1, 2)}
    assert len(crossed.status["jobs"]) == 8


def test_the_leaderboard_has_a_row_for_each_setting(crossed):
    rows = crossed.leaderboard
    assert list(rows[0]) == [
        *("setting", "modalities", "fusion", "seeds", "seed_list", "warnings", "parameters", "parameters_fusion", "seconds/mean"),
        *SUMMARIES,
    ]
    assert {(row["fusion"], row["modalities"]) for row in rows} == {("none", "text"), ("gmu_original", "text+image")}
    assert [(row["seeds"], row["seed_list"]) for row in rows] == [("2", "1,2")] * 2
    falling = [float(row["test/f1_micro/mean"]) for row in rows]
    assert falling == sorted(falling, reverse=True)


def test_the_leaderboard_holds_unrounded_means_and_deviations(crossed):
    for row in crossed.leaderboard:
        runs = [crossed.run(f"{row['fusion']}-{row['modalities']}-seed{seed}") for seed in (1, 2)]
        assert {read_json(run / "status.json")["setting"] for run in runs} == {row["setting"]}
        metrics = [read_json(run / "metrics.json") for run in runs]
        for score in (f"{split}/{name}" for split in ("test", "val") for name in SCORES):
            values = [of_one[score] for of_one in metrics]
            assert float(row[f"{score}/mean"]) == pytest.approx(statistics.mean(values), abs=1e-12)
            assert float(row[f"{score}/sd"]) == pytest.approx(statistics.stdev(values), abs=1e-12)


@pytest.mark.parametrize("launched", ["crossed", pytest.param("parallel", marks=pytest.mark.heavy)])
def test_equal_jobs_are_run_once(launched, request):
    swept: Sweep = request.getfixturevalue(launched)
    done = Counter(line.split()[0] for line in swept.out.splitlines() if "  test micro F1 " in line)
    assert done == {job["folder"]: 1 for job in swept.jobs("finished")}


@pytest.mark.heavy
def test_launchers_give_the_same_predictions_bit_for_bit(crossed, parallel):
    for seed in (1, 2):
        words = f"gmu_original-text+image-seed{seed}"
        for split in ("val", "test"):
            pd.testing.assert_frame_equal(
                predictions(crossed.run(words), split), predictions(parallel.run(words), split), check_exact=True
            )


def test_a_run_alone_equals_the_job_of_a_sweep_bit_for_bit(crossed, home):
    said = typed("train", *SMOKE, "seed=2", "hydra.run.dir=alone", folder=home, store=home / "store")
    assert said.returncode == 0, said.stderr
    job = crossed.run("gmu_original-text+image-seed2")
    assert read_json(home / "alone" / "status.json")["identity"] == read_json(job / "status.json")["identity"]
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(predictions(home / "alone", split), predictions(job, split), check_exact=True)


@pytest.mark.heavy
def test_a_killed_process_costs_its_job_alone(parallel):
    (killed,) = parallel.jobs("failed")
    assert "seed=3" in killed["overrides"]
    assert "SIGKILL" in killed["why"]
    assert len(parallel.jobs("finished")) == 2
    assert parallel.code == 1
    (row,) = parallel.leaderboard
    assert (row["seeds"], row["seed_list"]) == ("2", "1,2")


@pytest.mark.parametrize("launched", ["failing", pytest.param("parallel", marks=pytest.mark.heavy)])
def test_each_job_is_a_wandb_run_of_the_sweeps_group(launched, request):
    swept: Sweep = request.getfixturevalue(launched)
    finished = [job["folder"] for job in swept.jobs("finished")]
    told = [read_offline_run(swept.folder / folder) for folder in finished]
    assert [(of_one.name, of_one.group, of_one.exit_code) for of_one in told] == [(f, launched, 0) for f in finished]
    assert len({of_one.id for of_one in told}) == len(finished)
    for folder, of_one in zip(finished, told, strict=True):
        assert of_one.summary["test/f1_micro"] == read_json(swept.folder / folder / "metrics.json")["test/f1_micro"]


def test_a_failing_job_costs_no_other_and_the_exit_code_says_so(failing):
    assert failing.code == 1
    (failed,), (finished,) = failing.jobs("failed"), failing.jobs("finished")
    assert "optimizer.lr=1e+30" in failed["overrides"]
    assert (failing.folder / finished["folder"] / "metrics.json").exists()
    assert not (failing.folder / failed["folder"] / "metrics.json").exists()
    assert last_line(failing.err) == f"failed: {failed['folder']}: {failed['why']}"
    assert "Traceback" not in failing.err


def test_a_setting_of_failed_runs_stands_last_with_its_reason(failing):
    (failed,) = failing.jobs("failed")
    trained, untrained = failing.leaderboard
    assert (trained["optimizer.lr"], trained["seeds"], trained["test/f1_micro/sd"]) == ("0.01", "1", "")
    assert (untrained["optimizer.lr"], untrained["seeds"], untrained["test/f1_micro/mean"]) == ("1e+30", "0", "")
    assert failed["why"] in untrained["warnings"]
    assert failed["why"] in (failing.folder / "leaderboard.md").read_text()


@contextmanager
def started(folder: Path, home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start `train` in a process group of its own, as a terminal does, and kill the group at the end."""
    process = subprocess.Popen(
        command("train", *arguments),
        cwd=folder,
        env=environment(home / "store"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  a background job ignores it
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: subprocess.Popen[str]) -> str:
    """Interrupt the group as Ctrl-C does, check how the command ends, and return its stderr."""
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert last_line(err) == "interrupted"
    assert "Traceback" not in err
    return err


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if happened():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    pytest.fail("the awaited event did not happen within a minute")


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=processes", "hydra.launcher.n_jobs=1")], ids=["basic", "processes"])
def test_ctrl_c_leaves_a_leaderboard_of_what_finished(launcher, home, tmp_path):
    folder = tmp_path / "cut"

    def the_second_job_trains() -> bool:
        states = {run.parent: read_json(run)["state"] for run in folder.glob("*/status.json")}
        training = [run for run, state in states.items() if state == "running" and (run / "history.csv").exists()]
        return "finished" in states.values() and bool(training)

    epochs = "trainer.max_epochs=1,1000000,2,3"
    with started(tmp_path, home, "-m", *SMOKE, epochs, *launcher, "hydra.sweep.dir=cut") as process:
        wait_for(the_second_job_trains, process)
        said = interrupt(process)
    cut = Sweep(folder, 130, "", "")
    assert (cut.status["state"], cut.status["why"]) == ("interrupted", "interrupted")
    assert (cut.status["finished"], cut.status["failed"], cut.status["interrupted"]) == (1, 0, 1)
    assert [job["why"] for job in cut.jobs("interrupted")] == ["interrupted"]
    assert [(row["seeds"], row["warnings"]) for row in cut.leaderboard if row["trainer.max_epochs"] == "1000000"] == [
        ("0", "interrupted")
    ]
    assert "## Interrupted" in (folder / "leaderboard.md").read_text()
    assert [row["seeds"] for row in cut.leaderboard if row["trainer.max_epochs"] == "1"] == ["1"]
    left = [word for overrides in cut.status["not_begun"] for word in overrides if "max_epochs" in word]
    assert left == ["trainer.max_epochs=2", "trainer.max_epochs=3"]
    assert f"2 jobs not begun: the same command with hydra.sweep.dir={folder} does what is missing" in said


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["processes", "stacked"])
def test_jobs_end_with_a_sweep_that_is_killed(launcher, home, tmp_path):
    folder = tmp_path / "cut"
    words = ("-m", *SMOKE, "trainer.max_epochs=1000000", f"hydra/launcher={launcher}", "hydra.sweep.dir=cut")
    with started(tmp_path, home, *words) as process:
        wait_for(lambda: any(folder.glob("*/history.csv")), process)
        process.kill()
        (status,) = folder.glob("*/status.json")
        for _ in range(300):
            if read_json(status)["state"] == "interrupted":
                break
            time.sleep(0.1)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        assert read_json(status)["why"] == "interrupted"


def test_ctrl_c_of_a_run_alone_is_told_in_its_status(home, tmp_path):
    run = tmp_path / "run"
    with started(tmp_path, home, *SMOKE, "trainer.max_epochs=1000000", "hydra.run.dir=run") as process:
        wait_for((run / "checkpoints/last.ckpt").exists, process)
        interrupt(process)
    status = read_json(run / "status.json")
    assert (status["state"], status["why"]) == ("interrupted", "interrupted")
    assert not (run / "metrics.json").exists()


NOWHERE = "_target_=nowhere.Class cannot be imported: Python finds no module nowhere; correct the name, or type --config-dir"


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["basic", "processes", "stacked"])
def test_a_class_that_cannot_be_imported_fails_its_jobs(sweep, launcher):
    failed = sweep(f"nowhere-{launcher}", "fusion._target_=nowhere.Class", f"hydra/launcher={launcher}")
    assert failed.code == 1
    assert [job["why"].startswith(NOWHERE) for job in failed.jobs("failed")] == [True]
    assert failed.jobs("failed")[0]["why"] in last_line(failed.err)
    assert "Traceback" not in failed.err and "EOFError" not in failed.err and "Error getting object" not in failed.err


@pytest.mark.parametrize("words", [["fusion._target_=nowhere.Class"], ["encoder.image._target_=nowhere.Class"], ["seed=first"]])
def test_a_check_of_jobs_that_would_fail_exits_with_1(sweep, words):
    checked = sweep("checked", *words, "check=true")
    assert checked.code == 1
    assert last_line(checked.err).startswith(NOWHERE if "nowhere" in words[0] else "seed=first is not possible")
    assert "stop  " in checked.out and "Traceback" not in checked.err


def test_a_check_says_what_would_happen_and_leaves_nothing(tmp_path):
    said = typed(
        "train",
        *("-m", *SMOKE, "fusion=none,mean", "modalities=text,text+image", "seed=1,1,2", "check=true"),
        folder=tmp_path,
        store=tmp_path / "store",
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert Counter(line.split()[0] for line in lines if "-seed" in line) == {"run": 4, "once": 2}
    assert "skip  6 of 12 combinations are invalid and left out" in lines
    assert "with 2 seeds of a setting no difference can be claimed: three are the least, such as seed=1,2,3" in lines
    assert "4 of 12 jobs would run" in said.stdout
    assert list(tmp_path.iterdir()) == []
