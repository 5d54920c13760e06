"""Training from Python does what the shell does: the same runs, sentences and states, and no state is left in the process."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

import gmu_lightning as gl
from gmu_lightning.run import Run

from .shell import PATIENCE, SMOKE, environment, last_line, typed

SMALL = {"experiment": "smoke", "trainer": {"max_epochs": 1, "threads": 1}}
LONG = {"experiment": "smoke", "trainer": {"max_epochs": 100_000, "threads": 1}}


@pytest.fixture
def here(tmp_path, store, monkeypatch) -> Path:
    """An empty folder, the current one of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GMU_STORE", str(store))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def until(there: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def state_in(folder: Path) -> str | None:
    return Run(folder).status.get("state")


def epochs(folder: Path) -> int:
    """Return the number of epochs that a run has recorded so far."""
    path = folder / "history.csv"
    return len(path.read_text().splitlines()) if path.exists() else 0


def process_of(folder: Path) -> str:
    """Return the number of the process whose arguments name the folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if str(folder).encode() in path.read_bytes():
                return path.parent.name
    raise LookupError(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, store) -> gl.Run:
    """The smoke run once more, in the default folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("python"))
        patch.setenv("GMU_STORE", str(store))
        patch.setenv("OMP_NUM_THREADS", "1")
        return gl.train("experiment=smoke", trainer={"threads": 1})


def test_a_run_is_that_of_the_shell(run, smoke):
    assert (run / "overrides.txt").read_text() == (smoke / "overrides.txt").read_text()
    for key in ("identity", "setting", "state", "warnings"):
        assert run.status[key] == smoke.status[key]
    assert run.metrics["test/f1_micro"] == smoke.metrics["test/f1_micro"]
    assert (run / "predictions/test.parquet").read_bytes() == (smoke / "predictions/test.parquet").read_bytes()
    command, shell = (one["command"].split() for one in (run.files.environment, smoke.environment))
    assert command[:3] == shell[:3] == [shell[0], "experiment=smoke", "trainer.threads=1"]
    assert run.folder.parent.parts[-2:] == ("outputs", "runs")
    assert run.folder.name.endswith("-gmu_original-text+image-seed1")


def test_a_run_is_loaded_and_predicts(run):
    predicted = gl.load(run).predict([{"text": "A boy, a dog and the sea."}])
    genres = run.predictions("test").filter(like="label/").columns.str.removeprefix("label/")
    assert {f"prob/{genre}" for genre in genres} <= set(predicted.columns)
    assert len(gl.load([run, run]).runs) == 2


def test_no_state_of_hydra_stays(run):
    assert not GlobalHydra.instance().is_initialized()
    with hydra.initialize_config_dir(str(Path(gl.__file__).parents[1] / "conf"), version_base="1.3"):
        assert hydra.compose("train").seed == 1
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.heavy
def test_awkward_folders_and_values_reach_the_run(here, capfd):
    folder = here / "a 'b', c=d (e)"
    run = gl.train(folder=folder, root=here / "movies, = 'x'", **SMALL, logger=["csv"], check=False)
    assert run.folder == folder
    assert run.config["data"]["root"] == str(here / "movies, = 'x'")
    shown = capfd.readouterr()
    assert shown.out.startswith(f"{folder}: test micro F1")
    assert "epoch 1/1" in shown.err
    assert run.files.overrides[-2:] == ["logger=[csv]", "check=false"]


@pytest.mark.parametrize(
    "options",
    [
        {"fusoin": "mean"},
        {"trainer": {"max_epochs": -1}},
        {"optimizer.lr": "a, b=c"},
    ],
    ids=str,
)
def test_an_error_is_the_sentence_of_the_shell(here, store, capfd, options):
    words = [f"{key}={value}" for key, value in options.items() if not isinstance(value, dict)] or ["trainer.max_epochs=-1"]
    words = [word if " " not in word else "optimizer.lr='a, b=c'" for word in words]
    done = typed("train", *SMOKE, *words, folder=here, store=store)
    capfd.readouterr()
    with pytest.raises(gl.UserError) as refused:
        gl.train(**{**SMALL, **options})
    assert str(refused.value) == last_line(done.stderr)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.heavy
def test_a_plan_is_only_printed(here, capfd):
    assert gl.train(**SMALL, check=True) is None
    assert "1 of 1 jobs would run" in capfd.readouterr().out
    assert gl.sweep(**SMALL, seed=[1, 2], check=True) is None
    assert "2 of 2 jobs would run" in capfd.readouterr().out
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hydra": {"run": {"dir": "x"}}}, "hydra.run.dir is given by folder= in Python"),
        ({"folder": "a/${seed}"}, "folder=a/${seed} holds an interpolation"),
    ],
)
def test_a_folder_has_one_name(here, options, reason):
    with pytest.raises(gl.UserError) as refused:
        gl.train(**SMALL, **options)
    assert str(refused.value).startswith(reason)


def test_an_error_is_one_line_in_a_notebook():
    assert gl.UserError("fusion=x is no choice")._render_traceback_() == ["UserError: fusion=x is no choice"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, store) -> gl.Sweep:
    folder = tmp_path_factory.mktemp("swept") / "my sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("GMU_STORE", str(store))
        patch.setenv("OMP_NUM_THREADS", "1")
        return gl.sweep(folder=folder, **SMALL, fusion=["none", "mean", "gmu_original"], seed=range(1, 4))


@pytest.mark.heavy
def test_a_sweep_has_runs_a_board_and_a_comparison(swept):
    assert (swept.status["finished"], swept.status["skipped"], swept.failed) == (6, 3, [])
    assert {job["why"] for job in swept.skipped} == {job["why"] for job in swept.status["jobs"] if job["state"] == "skipped"}
    assert [run.folder.name.split("-")[0] for run in swept.runs] == ["gmu_original"] * 3 + ["mean"] * 3
    assert sorted(swept.leaderboard["fusion"]) == ["gmu_original", "mean"]
    assert list(swept.leaderboard["seeds"]) == [3, 3]
    assert swept.compare().summary in (swept / "comparison.md").read_text()
    (pair,) = swept.compare().pairs.to_dict("records")
    stored = json.loads((swept / "comparison.json").read_text())["pairs"][0]
    assert {key: pair[key] for key in ("a", "b", "difference", "low", "high", "p_holm", "verdict", "sentence")} == {
        key: stored[key] for key in ("a", "b", "difference", "low", "high", "p_holm", "verdict", "sentence")
    }


@pytest.mark.heavy
def test_a_sweep_continues_in_its_folder(swept, store, monkeypatch):
    monkeypatch.setenv("GMU_STORE", str(store))
    before = {run.folder: run.status["ended"] for run in swept.runs}
    more = gl.sweep(folder=swept.folder, **SMALL, fusion=["mean", "gmu_original"], seed=range(1, 5))
    after = {run.folder: run.status["ended"] for run in more.runs}
    assert (len(after), before.items() <= after.items()) == (8, True)


@pytest.mark.heavy
def test_failed_jobs_are_a_warning_and_a_sweep_without_results_an_error(here):
    with pytest.warns(UserWarning, match=r"1 of 2 jobs failed: .*data.movies=-1") as warned:
        found = gl.sweep(**SMALL, fusion="mean", data={"movies": [60, -1]})
    assert warned[0].filename == __file__
    assert (found.status["finished"], len(found.failed)) == (1, 1)
    with pytest.raises(gl.UserError, match=r"no job of 2 finished: data.movies=-1"):
        gl.sweep(**SMALL, fusion="mean", seed=[1, 2], data={"movies": -1})
    with pytest.raises(gl.UserError, match=r"no job of 2 finished: fusion=none takes exactly one modality"):
        gl.sweep(**SMALL, fusion="none", seed=[1, 2])
    with pytest.raises(gl.UserError, match=r"fusion=meen is no choice: did you mean mean"):
        gl.sweep(**SMALL, fusion=["meen", "mean"])


def test_an_interruption_reaches_the_run(here, capfd):
    folder = here / "run"

    def interrupt() -> None:
        until(lambda: epochs(folder) > 3)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        gl.train(folder=folder, **LONG)
    assert state_in(folder) == "interrupted"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.heavy
def test_a_run_ends_with_the_process_that_began_it(here, store):
    options = f"folder='run', **{LONG!r}"
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # as in the background of a shell
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{ignored}; import gmu_lightning as gl; gl.train({options})"], cwd=here, env=environment(store)
    )
    until(lambda: epochs(here / "run") > 3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: state_in(here / "run") == "interrupted")


@pytest.mark.heavy
def test_a_process_that_is_killed_is_named(here):
    folder = here / "run"

    def kill() -> None:
        until(lambda: epochs(folder) > 3)
        os.kill(int(process_of(folder)), signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(gl.UserError, match="train did not finish: its process was ended by SIGKILL"):
        gl.train(folder=folder, **LONG)
