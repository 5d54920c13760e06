"""A sweep's own files, written from the run folders of its jobs."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.discovery import runs_in
from gmu_lightning.run import Run, runs_under
from gmu_lightning.sweep.files import write_sweep
from gmu_lightning.sweep.session import Session

CONFIG = {"modalities": "text", "seed": 1, "choices": {"fusion": "none"}}
EARLIER, NOW = "2020-01-01T00:00:00+00:00", "2021-01-01T00:00:00+00:00"


def failed(folder: Path, started: str) -> Run:
    run = Run(folder)
    run.begin(CONFIG | {"seed": folder.name}, ["fusion=none"])
    run.end("failed", "the disk is full")
    write_json(run / "status.json", run.status | {"started": started})
    return run


def test_only_failures_since_the_start_count(tmp_path):
    failed(tmp_path / "1", EARLIER)
    assert write_sweep(tmp_path, NOW) == 0
    assert json.loads((tmp_path / "status.json").read_text())["failed"] == 1
    failed(tmp_path / "2", NOW)
    assert write_sweep(tmp_path, NOW) == 1


def states(folder: Path) -> list[tuple[str, str | None]]:
    return [(job["state"], job["why"]) for job in json.loads((folder / "status.json").read_text())["jobs"]]


@pytest.mark.parametrize(
    ("interrupted", "end"), [(False, ("failed", "its process ended without a word")), (True, ("interrupted", "interrupted"))]
)
def test_a_run_whose_process_is_gone_has_ended(tmp_path, interrupted, end):
    Run(tmp_path / "1").begin(CONFIG, ["fusion=none"])
    write_sweep(tmp_path, NOW, interrupted)
    assert states(tmp_path) == [end]


def test_a_run_that_its_process_ends_just_now_stays_as_it_ended(tmp_path, monkeypatch):
    theirs, held = Run(tmp_path / "1"), Run.held
    theirs.begin(CONFIG, ["fusion=none"])

    def held_late(run: Run) -> AbstractContextManager[bool]:
        theirs.end("skipped", "it takes one")
        return held(run)

    monkeypatch.setattr(Run, "held", held_late)
    write_sweep(tmp_path, NOW)
    assert states(tmp_path) == [("skipped", "it takes one")]


def test_jobs_that_never_began_are_listed(tmp_path, capsys):
    sweep = tmp_path / "a sweep"
    session = Session()
    session.plan([(None, ["seed=1"]), (None, ["seed=2"]), (str(sweep / "3"), ["seed=3"])])
    session.reached(sweep / "1")
    assert session.waiting() == [["seed=1"], ["seed=2"], ["seed=3"]]  # its turn came, but its folder is still empty
    for name in ("1", "3"):
        failed(sweep / name, NOW)
    waiting = session.waiting()
    write_sweep(sweep, NOW, interrupted=True, waiting=waiting)
    assert json.loads((sweep / "status.json").read_text())["not_begun"] == [["seed=2"]]
    assert f"1 job not begun: the same command with 'hydra.sweep.dir={sweep}' does what is missing" in capsys.readouterr().err


def skipped_again(folder: Path, *jobs: tuple[list[str], str]) -> list[dict]:
    """Write the sweep, and return its skipped jobs."""
    write_sweep(folder, NOW, skipped=jobs)
    return [job for job in json.loads((folder / "status.json").read_text())["jobs"] if job["state"] == "skipped"]


PAIR = (["experiment=x", "fusion=none", "modalities=text+image", "seed=1"], "none takes one modality")


def test_a_skipped_job_is_listed_without_a_folder(tmp_path, capsys):
    failed(tmp_path / "1", NOW)
    assert skipped_again(tmp_path, PAIR) == [{"folder": None, "overrides": PAIR[0], "state": "skipped", "why": PAIR[1]}]
    assert "1 of 2 combinations is invalid and left out: leaderboard.md lists it" in capsys.readouterr().err
    board = (tmp_path / "leaderboard.md").read_text()
    assert "- none takes one modality (`experiment=x modalities=text+image`)" in board


def test_skipped_jobs_of_earlier_commands_are_kept(tmp_path):
    skipped_again(tmp_path, PAIR)
    other = (["fusion=mean", "modalities=text"], "mean takes two")
    assert [job["why"] for job in skipped_again(tmp_path, other, (PAIR[0][::-1], PAIR[1]))] == [PAIR[1], "mean takes two"]
    assert len(skipped_again(tmp_path)) == 2


def test_a_job_that_ran_later_is_no_longer_skipped(tmp_path):
    assert len(skipped_again(tmp_path, (["fusion=none"], "it takes one"))) == 1
    failed(tmp_path / "1", NOW)
    assert skipped_again(tmp_path) == []


def test_a_sweep_of_skipped_jobs_alone_says_why(tmp_path, capsys):
    assert write_sweep(tmp_path, NOW, skipped=[PAIR, ([*PAIR[0][:3], "seed=2"], PAIR[1])]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["2 of 2 combinations are invalid and left out: leaderboard.md lists them", PAIR[1]]


def test_skipped_jobs_are_not_waiting(tmp_path):
    session = Session()
    session.plan([(str(tmp_path / "1"), ["seed=1"]), (str(tmp_path / "2"), ["seed=2"])])
    (tmp_path / "1").mkdir()
    session.skip(tmp_path / "1", ["seed=1"], "no sense")
    assert session.waiting() == [["seed=2"]]
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([["fusion=a", "seed=1"], ["fusion=b", "seed=1"]], "with one seed of a setting no difference can be claimed"),
        ([["fusion=a", "seed=1"], ["seed=2", "fusion=a"]], "with 2 seeds of a setting no difference can be claimed"),
        ([["fusion=a"]], "with one seed of a setting"),
        ([["fusion=a", f"seed={seed}"] for seed in (1, 2, 3)], ""),
        ([["fusion=none", "seed=5"]], ""),
        ([["fusion=none", "seed=5"], ["fusion=skipped", "seed=5"]], ""),
    ],
)
def test_fewer_than_three_seeds_are_announced(tmp_path, capsys, jobs, words):
    for seed in (1, 2):
        run = Run(tmp_path / f"{seed}")
        run.begin(CONFIG, ["fusion=none", f"seed={seed}"])
        run.end("finished")
    skipped = {"folder": None, "overrides": ["fusion=skipped", "seed=1"], "state": "skipped", "why": "no sense"}
    write_json(tmp_path / "status.json", {"jobs": [skipped]})
    Session(folder=tmp_path).caution(jobs)
    err = capsys.readouterr().err
    assert err.startswith(words) if words else err == ""


def test_progress_names_the_remaining_time(tmp_path, capsys, monkeypatch):
    clock = iter([0.0, 4.0, 12.0, 40.0])
    monkeypatch.setattr("gmu_lightning.sweep.session.time.monotonic", lambda: next(clock))
    session = Session()
    session.plan([(str(tmp_path / f"{n}"), []) for n in range(4)])
    session.skip(tmp_path / "3", [], "no sense")
    session.ended()  # after 4 s, too early for a line
    session.ended()
    session.ended()  # the last one
    assert capsys.readouterr().err == "2 of 3 jobs, about 6 s left\n"


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
