"""One worker of a Slurm array: python -m gmu_lightning.sweep.slurm_worker PLAN. `hydra/launcher=slurm` submits it.

Slurm announces a preemption by a signal. The worker then saves, lets its jobs go, and returns to the queue. It sets an alarm of
its own before the end of its time limit, since Slurm's notice is lost if it comes before the worker runs. The module imports
little, so that it obeys signals early.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from gmu_lightning.movie import UserError

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR2", "SIGALRM") if hasattr(signal, name)]
MARGIN = 90  # seconds between the signal and the end of the time limit
PATIENCE = 60  # seconds until scontrol has to answer


class Signalled(KeyboardInterrupt):
    """A signal arrived.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number


class Task(NamedTuple):
    """This process's part of an array.

    Attributes:
        name: of the part in Slurm's commands; None outside Slurm.
        number: of the part, from 0.
        parts: their number.
        restarts: how often the part has returned to the queue.
    """

    name: str | None
    number: int
    parts: int
    restarts: int

    @classmethod
    def here(cls) -> Task:
        """Return the part that Slurm's variables name. A part has a name of its own only with the number of the array."""
        array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID", "0")
        count, restarts = os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"), os.environ.get("SLURM_RESTART_COUNT", "0")
        return cls(f"{array}_{number}" if array else None, int(number), max(1, int(count)), int(restarts))


def main() -> None:
    """Do the jobs of a plan that are free, until none is left. Raises SystemExit: 0, or 1 if a job of the sweep failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--config-dir")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--requeues", type=int, default=0)
    parser.add_argument("--minutes", type=int, default=0)
    chosen = parser.parse_args()
    task = Task.here()
    try:
        obey_signals()
        if chosen.minutes:
            signal.alarm(max(1, 60 * chosen.minutes - MARGIN))
        from gmu_lightning.sweep.slurm_crew import work

        code = work(chosen.plan.absolute(), chosen.config_dir, chosen.cpus, task.number, task.parts)
    except Signalled as signalled:
        say(f"signal {signalled.number}: saved")
        if signalled.number != signal.SIGTERM or lives_on(task):
            requeue(task, chosen.requeues)
        code = 128 + signalled.number
    except UserError as error:
        say(str(error))
        code = 1
    raise SystemExit(code)


def obey_signals() -> None:
    """Let the first signal raise Signalled. Later ones have no effect."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise Signalled(number)

    for one in SIGNALS:
        signal.signal(one, stop)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore the signals within the context. A process that begins there ignores them for ever, unless it decides otherwise."""
    before: dict[int, Any] = {one: signal.signal(one, signal.SIG_IGN) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def lives_on(task: Task) -> bool:
    """Return whether Slurm still counts this part as running, as it does before a preemption. After `scancel` it does not."""
    return task.name is not None and "JobState=RUNNING" in _scontrol("show", "job", task.name)


def requeue(task: Task, most: int) -> None:
    """Return to the queue, unless that happened `most` times."""
    if task.name is None:
        return
    if task.restarts >= most:
        say(f"returned to the queue {most} times: type the sweep's command again to go on")
    else:
        _scontrol("requeue", task.name)


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"scontrol {words[0]} failed ({error}): type the sweep's command again to go on")
        return ""
    if done.returncode:
        say(f"scontrol {words[0]} failed ({done.stderr.strip()}): type the sweep's command again to go on")
    return done.stdout


def say(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
