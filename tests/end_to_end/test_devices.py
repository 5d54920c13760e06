"""A run on two devices is one run: every movie is scored once, and one folder tells of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gmu_lightning.run import Run

TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "trainer.threads=1", "data.batch_size=8")


def train(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "gmu_lightning.train",
        *arguments,
        "experiment=smoke",
        *TWO,
        f"store.dir={tmp_path / 'store'}",
    ]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)


def test_two_processes_leave_one_run_in_which_every_test_movie_stands_once(tmp_path: Path) -> None:
    done = train(tmp_path, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    assert run.status["state"] == "finished"
    test = run.predictions("test")
    assert len(set(test.ids)) == len(test.ids) == run.metrics["test/movies"] == 10
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 2
    # 40 train movies in batches of 8 are 5, shared by two: 3 updates an epoch, one batch being seen twice
    assert (run / "history.csv").read_text().splitlines()[-1].split(",")[1] == "6"
    assert [path.name for path in tmp_path.glob("outputs/*")] == []


def test_a_sweep_refuses_several_devices_a_job_in_a_sentence(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", f"hydra.sweep.dir={tmp_path / 'sweep'}", "seed=1")
    assert done.returncode == 1
    status = json.loads((tmp_path / "sweep/status.json").read_text())
    assert [job["state"] for job in status["jobs"]] == ["failed"]
    assert "a job of a sweep takes one device" in status["jobs"][0]["why"]
