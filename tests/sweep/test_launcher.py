"""Launchers and their workers: devices, threads, and processes that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import Job
from gmu_lightning.sweep.launcher import Processes, Stacked, device_of_job
from gmu_lightning.sweep.session import Session
from gmu_lightning.sweep.workers import Task, Worker, done_apart, share_out


def test_results_are_handled_one_at_a_time():
    busy, meetings, handled = threading.Event(), [], []

    def handle(task: Task, result: int) -> None:
        meetings.append(busy.is_set())
        busy.set()
        time.sleep(0.02)
        handled.append(result)
        busy.clear()

    workers = [SimpleNamespace(ended=False, do=lambda task: task.arguments[0], is_cut_off=bool) for _ in range(4)]
    share_out(workers, [Task(print, (n,)) for n in range(8)], handle)  # type: ignore[arg-type]
    assert sorted(handled) == list(range(8))
    assert not any(meetings)


def test_index_error_of_a_task_is_raised():
    def do(task: Task) -> None:
        raise IndexError("an index of the task")

    with pytest.raises(IndexError, match="an index of the task"):
        share_out([SimpleNamespace(ended=False, do=do, is_cut_off=bool)], [Task(print, ())])  # type: ignore[list-item]


def test_jobs_take_the_cuda_devices_in_turn() -> None:
    assert [device_of_job(number, 3, None) for number in range(5)] == ["0", "1", "2", "0", "1"]


def test_jobs_get_only_devices_visible_to_the_sweep() -> None:
    assert [device_of_job(number, 2, "4,GPU-1a2b") for number in range(3)] == ["4", "GPU-1a2b", "4"]


@pytest.mark.parametrize("count", [0, 1])
def test_with_fewer_than_two_devices_none_is_chosen(count: int) -> None:
    assert device_of_job(7, count, None) is None


def test_jobs_share_the_cores_unless_threads_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert Processes(n_jobs=2).threads == 4
    assert Processes(n_jobs=16).threads == 1
    assert Processes(n_jobs=2, threads=3).threads == 3


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"workers": 0}, "hydra.launcher.workers=0 is not possible: give a whole number from 1 to 1,024, or null"),
        ({"how": "vmap"}, "hydra.launcher.how=vmap does not exist: valid are auto, workers, stacks"),
    ],
)
def test_an_invalid_option_of_the_launcher_is_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}$"):
        Stacked(**option)


def test_sigterm_ends_a_worker_as_ctrl_c_does() -> None:
    """It runs in another process, because OpenVINO's bfloat16 makes a signal to pytest's own process a segmentation fault."""
    lines = "import os, signal, time; from gmu_lightning.sweep.workers import end_as_ctrl_c_does; end_as_ctrl_c_does()"
    kill = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", f"{lines}; {kill}"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert done.returncode == -signal.SIGINT


def _note(folder: Path, name: str, resident: object) -> int:
    (folder / name).write_text(str(os.getpid()))
    return os.getpid()


def _die(code: int, resident: object) -> None:
    os._exit(code)


def _swallow(resident: object) -> str:
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return "done"


def _leave_a_child(note: Path, cache: object) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
    note.write_text(str(child))
    os._exit(1)


@pytest.fixture
def context() -> Any:
    return multiprocessing.get_context("forkserver")


def _shared_out(context: Any, folder: Path, lasting: bool) -> set[str]:
    """Let one worker do four tasks, the third of which kills it, and return the process ids of the others."""
    worker = Worker(context, lasting)
    try:
        share_out(
            [worker], [Task(_note, (folder, "1")), Task(_note, (folder, "2")), Task(_die, (0,)), Task(_note, (folder, "3"))]
        )
    finally:
        worker.end()
    return {path.read_text() for path in folder.iterdir()}


@pytest.mark.heavy
@pytest.mark.parametrize(("lasting", "processes"), [(True, 2), (False, 3)])
def test_a_worker_that_dies_is_replaced(context, tmp_path, lasting, processes):
    assert len(_shared_out(context, tmp_path, lasting)) == processes


@pytest.mark.parametrize(("code", "how"), [(0, "exit code 0"), (3, "exit code 3")])
def test_the_jobs_of_a_task_fail_with_its_process(context, tmp_path, code, how):
    config: Any = SimpleNamespace(mapping={"seed": 1, "modalities": "text", "choices": {}})
    job = Job(config, [], str(tmp_path / "run"), "sweep")
    worker = Worker(context)
    assert worker.do(Task(_die, (code,), (job,))) is None
    status = job.run.status
    assert (status["state"], status["why"]) == ("failed", f"its process was ended by {how}")


def test_a_worker_is_dead_though_a_child_of_it_lives(context, tmp_path):
    assert Worker(context).do(Task(_leave_a_child, (tmp_path / "child",))) is None
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # an error if the child has ended


def test_a_worker_ends_by_a_signal_that_a_library_swallowed(context):
    worker = Worker(context)
    assert worker.do(Task(_swallow, ())) is None
    assert worker.ended and worker.exit_code == 130


def test_work_apart_is_done_by_another_process(context):
    process, text = done_apart(context, _whoami, "text")
    assert text == "text" and process != os.getpid()


def test_work_apart_without_a_process_gives_none(context):
    assert done_apart(context, _die, 3) is None


def _whoami(text: str, cache: Any) -> tuple[int, str]:
    return os.getpid(), text


@pytest.mark.parametrize("sound", [True, False])
def test_a_sweep_is_written_by_this_process_where_another_one_cannot(monkeypatch, tmp_path, sound):
    written = []
    monkeypatch.setattr("gmu_lightning.sweep.session._write", lambda *ending: written.append(ending) or 1)
    monkeypatch.setattr("gmu_lightning.sweep.session.done_apart", lambda *given: 0 if sound else None)
    session = Session(folder=tmp_path, processes=object())
    assert session.end_sweep(interrupted=False) is not sound
    assert len(written) == (0 if sound else 1)
