"""Runs under Slurm, in notebooks, with closed pipes, with processes that die, and on splits without labels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gmu_lightning.data.store import Store
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.leaderboard import rows
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import Run

from .shell import PATIENCE, SMOKE, command, environment, last_line, typed

SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NODELIST": "n1",
}
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
COUNTS = {"test/movies", "test/movies_without_input", "test/movies_with_genre"}
SWEEP = ("-m", *SMOKE, "seed=1,2", "hydra/launcher=stacked", "hydra.sweep.dir=sweep")


def files(folder: Path) -> set[str]:
    """Return the relative names of all files of a run."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.heavy
def test_slurm_notebooks_and_closed_pipes_leave_a_run_intact(smoke, store, tmp_path):
    line = " ".join(command("train", *SMOKE, "hydra.run.dir=run"))
    done = subprocess.run(
        ["bash", "-c", f"{line} | true; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=environment(store, **SLURM, **NOTEBOOK),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert files(tmp_path / "run") == files(smoke.folder)


@pytest.mark.heavy
def test_evaluate_reads_nothing_of_slurm(smoke, store, tmp_path):
    shutil.copytree(smoke.folder, tmp_path / "run")
    done = typed("evaluate", "run=run", folder=tmp_path, store=store, **SLURM)
    assert done.returncode == 0, done.stderr


@pytest.mark.heavy
def test_a_sweep_whose_stdout_is_closed_leaves_every_file(store, tmp_path):
    line = " ".join(command("train", *SWEEP))
    done = subprocess.run(
        ["bash", "-c", f"{line} 2>&1 | true; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=environment(store, **NOTEBOOK),
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0
    assert {"status.json", "leaderboard.csv", "report.html", "comparison.json"} <= files(tmp_path / "sweep")
    assert json.loads((tmp_path / "sweep/status.json").read_text())["finished"] == 2


@pytest.mark.heavy
def test_two_devices_share_a_val_split_of_one_batch(store, tmp_path):
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "data.batch_size=4000")
    done = typed("train", *SMOKE, *two, "hydra.run.dir=run", folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    assert len(run.predictions("val").ids) == run.metrics["val/movies"] == len(set(run.predictions("val").ids))


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["stacked", "processes"])
@pytest.mark.parametrize(
    ("module", "where"),
    [("pyarrow.parquet", "'forkserver' in ' '.join(sys.orig_argv)"), ("gmu_lightning.data.planted", "P()")],
    ids=["server", "worker"],
)
def test_a_process_that_dies_while_loading_fails_its_job(store, tmp_path, launcher, module, where):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def P():\n"
        "    process = sys.modules.get('multiprocessing.process')\n"
        "    return process is not None and process.parent_process() is not None\n"
        "class Deadly:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r} and ({where}):\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Deadly())\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    arguments = ("-m", *SMOKE, "seed=1,2", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep")
    done = typed("train", *arguments, folder=tmp_path, store=store, PYTHONPATH=path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    status = json.loads((tmp_path / "sweep/status.json").read_text())
    assert (status["failed"], status["finished"], status["not_begun"]) == (2, 0, [])
    assert "seeds" in (tmp_path / "sweep/leaderboard.csv").read_text()


@pytest.mark.parametrize("name", ["train", "evaluate", "adopt", "compare", "prepare", "dashboard"])
def test_arguments_outside_utf_8_are_refused(tmp_path, name):
    key = {"train": "data.root", "prepare": "data.root", "evaluate": "run", "adopt": "predictions"}.get(name, "runs")
    done = subprocess.run(
        [*(word.encode() for word in command(name)), f"{key}=caf".encode() + b"\xe9"],
        cwd=tmp_path,
        env=environment(tmp_path / "store"),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    said = done.stderr.decode()
    assert (done.returncode, "Traceback" in said) == (1, False), said
    assert last_line(said) == f"{key}=caf\ufffd holds bytes that are not UTF-8: rename that file or folder, or give another"


def unlabelled(copy, *splits: str):
    """Remove the genres of all movies of these splits, and return the folder."""
    for movie in (movie for split in splits for movie in copy.ids[split]):
        copy.change(movie, genres=None)
    return copy.folder


def test_an_unlabelled_test_split_is_only_predicted(train, copy, store, capsys):
    root = unlabelled(copy, "test")
    run = train(f"data.root={root}", "trainer.max_epochs=1")
    assert "val micro F1" in capsys.readouterr().out
    assert not [key for key in run.metrics if key.startswith("test/") and key not in COUNTS]
    assert run.metrics["test/movies_with_genre"] == 0
    assert run.metrics["val/movies_with_genre"] > 0
    assert "val/f1_micro" in run.metrics
    assert [w for w in run.status["warnings"] if w.startswith("unlabelled_test: ")]
    assert run.predictions("test").ids == copy.ids["test"]
    assert rows(settings_of([run]))[0]["test/f1_micro/mean"] is None
    with pytest.raises(UserError, match=r"nothing can be compared: .* no movie of its test split has a label"):
        compare([run])
    evaluate(run, "test", None, "0.5", Store(store))
    assert "test has no labels, so it is predicted and not scored" in capsys.readouterr().out
    with pytest.raises(UserError, match="robustness=true compares scores, and no movie of test has a label"):
        evaluate(run, "test", None, "0.5", Store(store), robustness_seed=0)


def test_a_val_split_without_labels_is_refused(train, copy):
    with pytest.raises(UserError, match="no movie of val has a genre that train has, so no epoch can be chosen: add its labels"):
        train(f"data.root={unlabelled(copy, 'dev')}", "trainer.max_epochs=1")


def test_evaluate_needs_labels_of_its_split_only(smoke, copy, store, tmp_path, capsys):
    shutil.copytree(smoke.folder, tmp_path / "run")
    evaluate(Run(tmp_path / "run"), "test", str(unlabelled(copy, "dev")), "0.5", Store(store))
    assert "test micro F1" in capsys.readouterr().out
