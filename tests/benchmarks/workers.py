"""Processes that take turns, and what a whole command costs.

A variant that takes long to start up is started once: it does a block of work whenever it is told to, and waits while the
others do theirs. So blocks of all variants alternate within seconds, and start-up is in none of them.
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

from tests.benchmarks.harness import REPOSITORY, seconds_of

DESCRIPTORS = "BENCHMARK_DESCRIPTORS"
POLL = 0.2
WARM = 3  # steps that nobody measures


class Turns:
    """The worker's side: steps, counted and timed in turns.

    A turn is as many whole steps as hold at least `movies` movies, with all that happens between the first and the last. One that
    an epoch's end would interrupt begins anew after it, so that no validation is in any; `WARM` steps come before the first.

    Args:
        movies: the fewest of a turn.
        threads: CPU threads of the worker, which decide what clock is read.
    """

    def __init__(self, movies: int, threads: int):
        told, says = (int(number) for number in os.environ[DESCRIPTORS].split(","))
        self._told, self._says = os.fdopen(told, "r"), os.fdopen(says, "w")
        self._movies, self._clock = movies, seconds_of(threads)
        self._seen = {"movies": 0.0, "tokens": 0.0, "steps": 0.0}
        self._start = 0.0, 0.0
        self._warm, self._mine = WARM, False

    def boundary(self, first: bool) -> None:
        """To be called before every step, when its batch is there. Ends the process where there are no more turns.

        Args:
            first: whether the step is an epoch's first.
        """
        if self._warm:
            self._warm -= 1
            return
        full = self._mine and not first and self._seen["movies"] >= self._movies
        if full:
            self._say()
        if full or not self._mine:
            if not self._told.readline():
                os._exit(0)  # nothing of what would follow (validation, tests, files) is measured
            self._mine = True
        if full or first or not self._seen["steps"]:
            self._seen = dict.fromkeys(self._seen, 0.0)
            self._start = self._clock(), time.perf_counter()

    def took(self, movies: int, tokens: int) -> None:
        """To be called once for every step, after `boundary`: what its batch holds."""
        if self._mine:
            for name, value in {"movies": movies, "tokens": tokens, "steps": 1}.items():
                self._seen[name] += value

    def _say(self) -> None:
        clock, wall = self._clock() - self._start[0], time.perf_counter() - self._start[1]
        self._says.write(json.dumps({"seconds": clock, "wall": wall, "peak_mb": peak_mb(), **self._seen}) + "\n")
        self._says.flush()


class Worker:
    """The harness's side of a process that imports `Turns`."""

    def __init__(self, command: Sequence[str], log: Path, threads: int):
        told, self._tell = os.pipe()
        self._hear, says = os.pipe()
        environment = environment_of(threads) | {DESCRIPTORS: f"{told},{says}"}
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=file, stderr=file, pass_fds=(told, says)
            )
        for ours in (told, says):
            os.close(ours)
        self._heard = os.fdopen(self._hear, "r")

    def turn(self) -> dict[str, float]:
        """One block. Ends the program, with the end of the worker's log, where the worker has died."""
        with suppress(BrokenPipeError):  # it has died: there will be no answer
            os.write(self._tell, b"go\n")
        line = self._heard.readline()
        if not line:
            raise SystemExit(f"{self.log}: the worker ended with {self.process.wait()}\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def end(self) -> None:
        """No more turns."""
        os.close(self._tell)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._heard.close()


class Cost(NamedTuple):
    """Of a whole command and its children."""

    wall: float
    cpu: float
    peak_mb: float  # proportional memory of all its processes at once, as sampled


def cost(command: Sequence[str], log: Path, threads: int, pinned: bool = False) -> Cost:
    """Run a Python command to its end. Ends the program, with the end of its log, where it fails.

    Args:
        pinned: it may use the first `threads` cores and no other: our encoding takes all that it sees, whatever its threads.
    """
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    prefix = ["taskset", "--cpu-list", cores] if pinned else []
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, *command], cwd=REPOSITORY, env=environment_of(threads), stdout=file, stderr=file
        )
        most, ended = Watched(), threading.Event()
        watcher = threading.Thread(target=most.watch, args=(process.pid, ended), daemon=True)
        watcher.start()
        code = process.wait()
        wall = time.perf_counter() - start
        ended.set()
        watcher.join()
    if code:
        raise SystemExit(f"{log}: {' '.join(command)} ended with {code}\n{log.read_text()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Cost(wall, max(cpu, most.cpu), most.memory_mb)


def peak_mb() -> float:
    """The most memory this process had so far; getrusage's is that of the process it was forked from, where that had more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def environment_of(threads: int) -> dict[str, str]:
    """Every variant gets the same: the checkout importable, and as many threads as were asked for."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


class Watched:
    """The most that a process and its descendants were seen to use.

    Descendants that nobody waits for, a fork server's jobs, are in no account of the system's: their CPU seconds are sampled.
    """

    def __init__(self) -> None:
        self.memory_mb = self.cpu = 0.0

    def watch(self, pid: int, ended: threading.Event) -> None:
        """Look every `POLL` seconds."""
        while not ended.wait(POLL):
            members = family(pid)
            self.memory_mb = max(self.memory_mb, sum(_pss(member) for member in members) / 1024)
            self.cpu = max(self.cpu, sum(members.values()))


def family(pid: int) -> dict[int, float]:
    """A process and all its descendants, with the CPU seconds of each and of the children that it waited for."""
    tick = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):  # it ended meanwhile
            continue
        number = int(stat.parent.name)
        parents[number], seconds[number] = int(fields[1]), sum(map(int, fields[11:15])) / tick
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return {member: seconds.get(member, 0.0) for member in members}


def _pss(pid: int) -> int:
    """Kilobytes, pages that several processes share counted once among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
