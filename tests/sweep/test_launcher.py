"""Jobs in parallel: who gets which device."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from gmu_lightning.sweep.launcher import Processes, device_of_job


def test_jobs_take_the_cuda_devices_in_turn() -> None:
    assert [device_of_job(number, 3, None) for number in range(5)] == ["0", "1", "2", "0", "1"]


def test_only_devices_that_the_sweep_may_see_are_given_out() -> None:
    assert [device_of_job(number, 2, "4,GPU-1a2b") for number in range(3)] == ["4", "GPU-1a2b", "4"]


@pytest.mark.parametrize("count", [0, 1])
def test_with_one_device_or_none_nothing_is_chosen(count: int) -> None:
    assert device_of_job(7, count, None) is None


def test_threads_are_shared_out_among_the_jobs_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert Processes(n_jobs=2).threads == 4
    assert Processes(n_jobs=16).threads == 1
    assert Processes(n_jobs=2, threads=3).threads == 3


def test_a_process_of_a_sweep_ends_by_sigterm_as_by_ctrl_c() -> None:
    """In a process of its own: a signal that pytest's hears after OpenVINO's bfloat16 ended it with a segmentation fault."""
    lines = "import os, signal, time; from gmu_lightning.sweep.launcher import end_as_ctrl_c_does; end_as_ctrl_c_does()"
    kill = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", f"{lines}; {kill}"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert done.returncode == -signal.SIGINT
