"""Run worker processes in turns, and measure the cost of whole commands.

A variant with a slow start-up is started once. It does a block of work on command and waits while the other variants work.
Blocks of all variants thus alternate within seconds and exclude start-up.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import REPOSITORY, seconds_of
from benchmarks.load import adopt_orphans, children, family

DESCRIPTORS = "BENCHMARK_DESCRIPTORS"
POLL = 0.2
WARM = 3  # unmeasured steps at the start


class Turns:
    """The worker's side: count and time steps in turns.

    A turn is a run of whole steps with at least `movies` movies in total. A turn that reaches the end of an epoch starts again
    after it, so that turns exclude validation. `WARM` steps precede the first turn.

    Args:
        movies: smallest number of movies in a turn.
        threads: CPU threads of the worker; they determine the clock (`seconds_of`).
    """

    def __init__(self, movies: int, threads: int):
        commands, reports = (int(number) for number in os.environ[DESCRIPTORS].split(","))
        self._commands, self._reports = os.fdopen(commands, "r"), os.fdopen(reports, "w")
        self._movies, self._clock = movies, seconds_of(threads)
        self._seen = {"movies": 0.0, "tokens": 0.0, "steps": 0.0}
        self._start = 0.0, 0.0
        self._warm, self._mine = WARM, False

    def boundary(self, first: bool) -> None:
        """Mark the start of a step; call it when the step's batch is ready. Ends the process after the last turn.

        Args:
            first: whether the step is the first of an epoch.
        """
        if self._warm:
            self._warm -= 1
            return
        full = self._mine and not first and self._seen["movies"] >= self._movies
        if full:
            self._report()
        if full or not self._mine:
            if not self._commands.readline():
                os._exit(0)  # skips validation, tests and files, which are not measured
            self._mine = True
        if full or first or not self._seen["steps"]:
            self._seen = dict.fromkeys(self._seen, 0.0)
            self._start = self._clock(), time.perf_counter()

    def took(self, movies: int, tokens: int) -> None:
        """Count the movies and tokens of a step; call it once per step, after `boundary`."""
        if self._mine:
            for name, value in {"movies": movies, "tokens": tokens, "steps": 1}.items():
                self._seen[name] += value

    def _report(self) -> None:
        clock, wall = self._clock() - self._start[0], time.perf_counter() - self._start[1]
        self._reports.write(json.dumps({"seconds": clock, "wall": wall, "peak_mb": peak_mb(), **self._seen}) + "\n")
        self._reports.flush()


class Worker:
    """The harness's side of a process that uses `Turns`."""

    def __init__(self, command: Sequence[str], log: Path, threads: int):
        read_commands, self._commands = os.pipe()
        read_reports, write_reports = os.pipe()
        theirs = read_commands, write_reports
        environment = environment_of(threads) | {DESCRIPTORS: "{},{}".format(*theirs)}
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=file, stderr=file, pass_fds=theirs
            )
        for descriptor in theirs:
            os.close(descriptor)
        self._reports = os.fdopen(read_reports, "r")

    def turn(self) -> dict[str, float]:
        """Return the report of one turn. Exits with the end of the worker's log if the worker has died."""
        with suppress(BrokenPipeError):  # the worker has died, so its report is empty
            os.write(self._commands, b"go\n")
        line = self._reports.readline()
        if not line:
            raise SystemExit(f"{self.log}: the worker ended with {self.process.wait()}\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def end(self) -> None:
        """End the worker's process."""
        os.close(self._commands)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reports.close()


class Cost(NamedTuple):
    """Cost of a whole command, including its child processes."""

    wall: float  # seconds
    cpu: float  # seconds
    peak_mb: float  # largest sampled sum of the proportional memory (PSS) of all processes


def cost(command: Sequence[str], log: Path, threads: int, pinned: bool = False) -> Cost:
    """Run a Python command and return its cost. Exits with the end of its log if the command fails.

    Args:
        pinned: restrict the command to the first `threads` cores, because our encoding uses all visible cores.
    """
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    prefix = ["taskset", "--cpu-list", cores] if pinned else []
    adopt_orphans()
    others = children()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, *command], cwd=REPOSITORY, env=environment_of(threads), stdout=file, stderr=file
        )
        peak, ended = Peak(), threading.Event()
        watcher = threading.Thread(target=peak.watch, args=(process.pid, ended), daemon=True)
        watcher.start()
        code = process.wait()
        wall = time.perf_counter() - start
        ended.set()
        watcher.join()
    while orphans := children() - others:  # the server of a sweep's processes ends just after the sweep
        os.waitpid(orphans.pop(), 0)
    if code:
        raise SystemExit(f"{log}: {' '.join(command)} ended with {code}\n{log.read_text()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, peak.memory_mb)


def peak_mb() -> float:
    """Return the peak memory of this process in MB. (`getrusage` would include the peak of the process that forked it.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def environment_of(threads: int) -> dict[str, str]:
    """Return the environment of every variant: the checkout is importable, and OpenMP uses `threads` threads."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


class Peak:
    """The largest sampled memory of a process and its descendants."""

    memory_mb = 0.0

    def watch(self, pid: int, ended: threading.Event) -> None:
        """Sample every `POLL` seconds until `ended` is set."""
        while not ended.wait(POLL):
            self.memory_mb = max(self.memory_mb, sum(_pss(member) for member in family(pid)) / 1024)


def _pss(pid: int) -> int:
    """Return the proportional memory of a process in kB, where processes divide the pages that they share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
