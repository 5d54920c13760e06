"""A sweep's own files, of whatever its jobs left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.found import runs_in
from gmu_lightning.run import Run, runs_under
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.files import write_sweep

CONFIG = {"modalities": "text", "seed": 1, "choices": {"fusion": "none"}}
EARLIER, NOW = "2020-01-01T00:00:00+00:00", "2021-01-01T00:00:00+00:00"


def failed(folder: Path, started: str) -> Run:
    run = Run(folder)
    run.begin(CONFIG | {"seed": folder.name}, ["fusion=none"])
    run.end("failed", "the disk is full")
    write_json(run / "status.json", run.status | {"started": started})
    return run


def test_only_jobs_of_this_time_count_as_its_failures(tmp_path):
    failed(tmp_path / "1", EARLIER)
    assert write_sweep(tmp_path, NOW) == 0
    assert json.loads((tmp_path / "status.json").read_text())["failed"] == 1
    failed(tmp_path / "2", NOW)
    assert write_sweep(tmp_path, NOW) == 1


def test_what_never_began_is_told_with_how_to_go_on(tmp_path, monkeypatch, capsys):
    sweep = tmp_path / "a sweep"
    monkeypatch.setattr(SweepFiles, "planned", [])
    SweepFiles.plan([(None, ["seed=1"]), (None, ["seed=2"]), (str(sweep / "3"), ["seed=3"])])
    SweepFiles.reached(sweep / "1")
    assert SweepFiles.waiting() == [["seed=1"], ["seed=2"], ["seed=3"]]  # its turn came, but nothing is there yet
    for name in ("1", "3"):
        failed(sweep / name, NOW)
    waiting = SweepFiles.waiting()
    write_sweep(sweep, NOW, interrupted=True, waiting=waiting)
    assert json.loads((sweep / "status.json").read_text())["not_begun"] == [["seed=2"]]
    assert f"1 job not begun: the same command with 'hydra.sweep.dir={sweep}' does what is missing" in capsys.readouterr().err


def test_trials_of_a_search_are_not_compared(tmp_path):
    (tmp_path / "search").mkdir()
    trial = failed(tmp_path / "search/1", NOW)
    (tmp_path / "search/studies.log").touch()
    for folder in (trial.folder, trial.folder.parent):
        with pytest.raises(UserError, match=f"holds trials of a search.*runs={tmp_path}$"):
            runs_in([folder])


def test_a_damaged_job_counts_as_failed(tmp_path, capsys):
    run = failed(tmp_path / "1", NOW)
    for content in ("{", "[]", b"\xff"):
        (run / "status.json").write_bytes(content.encode() if isinstance(content, str) else content)
        assert write_sweep(tmp_path, NOW) == 1
        assert f"left out: {run / 'status.json'} is damaged" in capsys.readouterr().err
        (job,) = json.loads((tmp_path / "status.json").read_text())["jobs"]
        assert (job["folder"], job["state"]) == ("1", "failed")
    assert len(runs_under(tmp_path)) == 1
