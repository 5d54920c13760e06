"""A run on two devices scores every movie once, and leaves one folder."""

from __future__ import annotations

import json

import pytest

from gmu_lightning.run import Run

from .shell import last_line, typed

TWO = (
    *("experiment=smoke", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"),
    *("trainer.threads=1", "data.batch_size=8"),
)


@pytest.mark.heavy
def test_two_devices_score_every_test_movie_once(tmp_path, store):
    done = typed("train", *TWO, "hydra.run.dir=run", folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    assert run.status["state"] == "finished"
    test = run.predictions("test")
    assert len(set(test.ids)) == len(test.ids) == run.metrics["test/movies"] == 10
    _, *epochs = (run / "history.csv").read_text().splitlines()
    # 40 train movies in batches of 8 are 5, shared by two: 3 updates an epoch, one batch being seen twice
    assert [epoch.split(",")[1] for epoch in epochs] == ["3", "6"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_sweep_refuses_several_devices_a_job_in_a_sentence(tmp_path, store):
    done = typed("train", "-m", *TWO, "hydra.sweep.dir=sweep", "seed=1", folder=tmp_path, store=store)
    assert done.returncode == 1
    (job,) = json.loads((tmp_path / "sweep/status.json").read_text())["jobs"]
    assert job["state"] == "failed"
    assert "a job of a sweep takes one device" in job["why"]
    assert job["why"] in last_line(done.stderr)
