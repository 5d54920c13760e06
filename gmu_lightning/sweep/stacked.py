"""hydra/launcher=stacked: one start-up, one reading and one encoding for all jobs of a sweep, then nothing but their arithmetic.

On a CPU the jobs go to as many workers of one thread as there are cores, each bound to a core of its own: heads are too small to
share one, and a worker keeps data and features from job to job. With CUDA one worker trains jobs that differ by their seed as a
single model with one axis more (`experiment.stack`). Heads over resident features need no Trainer (`experiment.heads`); what
trains more than that gets one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from gmu_lightning.data.progress import QUIET
from gmu_lightning.experiment.settle import fine_tuned
from gmu_lightning.movie import Senseless, UserError
from gmu_lightning.sweep.console import settle_in
from gmu_lightning.sweep.job import Job, sentence_of
from gmu_lightning.sweep.launcher import INTERRUPTED, Parallel, end_as_ctrl_c_does, end_killed, how_ended


class Warmed(NamedTuple):
    """What a worker found as it read and encoded.

    Attributes:
        jobs: how many can be trained; the others are skipped.
        cuda: whether one of them is trained on CUDA.
    """

    jobs: int
    cuda: bool


class Stacked(Parallel):
    """Jobs in workers that last.

    Args:
        how: `workers`, `stacks`, or `auto`: stacks where CUDA is used, workers elsewhere.
        workers: how many; None for as many as there are cores.

    Raises:
        UserError: `how` is none of these, or `workers` no such number.
    """

    threads = 1

    def __init__(self, how: str = "auto", workers: int | None = None):
        if how not in ("auto", "workers", "stacks"):
            raise UserError(f"hydra.launcher.how={how} is none of auto, workers and stacks: choose one of them")
        if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
            raise UserError(
                f"hydra.launcher.workers={workers} is no such number: give a whole number from 1 on, or null for one a core"
            )
        self.how = how
        self.workers = workers

    def run(self, context: Any, jobs: Sequence[Job]) -> None:
        """Read and encode once; then all jobs whose encoders are frozen or small; then the others, each with every core."""
        small = [job for job in jobs if not fine_tuned(job.config)]
        large = [job for job in jobs if fine_tuned(job.config)]
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        workers = [_Worker(context)]
        try:
            if small:
                warmed = workers[0].warm(small)
                stacks = warmed.cuda if self.how == "auto" else self.how == "stacks"
                each = max(int(job.config["trainer"]["threads"]) for job in small)
                count = 1 if stacks else max(1, min(self.workers or len(cores) // each, warmed.jobs))
                if warmed.jobs:
                    print(_said(warmed.jobs, count, each, stacks), file=sys.stderr)
                workers += [_Worker(context) for _ in range(count - 1)]
                if stacks:
                    _share_out(workers, deque([tuple(small)]), [set(cores)])
                else:
                    _share_out(workers, deque((job,) for job in small), _shares(cores, each))
            if large:
                which = "1 job trains" if len(large) == 1 else f"{len(large)} jobs train"
                print(f"stacked: {which} a pretrained encoder: one by one, with every core", file=sys.stderr)
                alone = [replace(job, config=with_threads(job.config, len(cores))) for job in large]
                _share_out(workers[:1], deque((job,) for job in alone), [set(cores)])
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """A process that does what it is asked until it is told to end, or dies."""

    def __init__(self, context: Any):
        self.context = context
        self.ended = False
        self._start()

    def _start(self) -> None:
        self.connection, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_work, args=(theirs,), daemon=False)
        self.process.start()
        theirs.close()

    def ask(self, request: tuple[str, Any]) -> Any:
        """Its answer. Raises EOFError where it died."""
        self.connection.send(request)
        return self.connection.recv()

    def warm(self, jobs: Sequence[Job]) -> Warmed:
        """Let it read and encode what these jobs need. If it dies of that, another takes its place and each job reads."""
        try:
            warmed: Warmed = self.ask(("warm", jobs))
        except (EOFError, OSError):
            self.process.join()
            print(f"stacked: nothing was read in advance, for {how_ended(self.process.exitcode)}", file=sys.stderr)
            self._replace()
            return Warmed(len(jobs), cuda=False)
        return warmed

    def do(self, jobs: Sequence[Job], cores: set[int]) -> None:
        """Some jobs; where the worker dies of them they are told so, and another takes its place."""
        try:
            self.ask(("jobs", (jobs, cores)))
        except (EOFError, OSError):
            self._replace(jobs)

    def _replace(self, jobs: Sequence[Job] = ()) -> None:
        self.process.join()
        if self.ended or self.process.exitcode == INTERRUPTED:  # the sweep's end says why
            self.ended = True
            return
        for job in jobs:
            end_killed(job, self.process.exitcode, died=True)
        self._start()

    def end(self) -> None:
        """Let go of the process, at once if it is at work."""
        self.ended = True
        self.connection.close()
        self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _share_out(workers: Sequence[_Worker], queue: deque[tuple[Job, ...]], shares: Sequence[set[int]]) -> None:
    """Every worker takes from the queue until it is empty, on its share of the cores."""
    problems: list[BaseException] = []

    def drain(worker: _Worker, cores: set[int]) -> None:
        try:
            while not worker.ended:
                worker.do(queue.popleft(), cores)
        except IndexError:  # nothing is left
            pass
        except BaseException as problem:
            problems.append(problem)

    threads = [
        threading.Thread(target=drain, args=(worker, shares[n % len(shares)]), daemon=True) for n, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # so that Ctrl-C is heard
            thread.join(timeout=0.2)
    if problems:
        raise problems[0]


def _shares(cores: Sequence[int], each: int) -> list[set[int]]:
    """The cores in lots of `each`; the last takes what is left over."""
    whole = max(1, len(cores) // each)
    return [set(cores[n * each : (n + 1) * each if n + 1 < whole else None]) for n in range(whole)]


def _said(jobs: int, workers: int, threads: int, stacks: bool) -> str:
    if stacks:
        return f"stacked: {jobs} jobs on one device; those that differ by their seed alone are trained as one"
    work = "1 job" if jobs == 1 else f"{jobs} jobs"
    many = "1 worker" if workers == 1 else f"{workers} workers"
    of = "one thread" if threads == 1 else f"{threads} threads"
    return f"stacked: {work} in {many} of {of}; data and features are read once in each"


def with_threads(config: Any, threads: int) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "threads": threads}}


def _work(connection: Connection) -> None:
    """A worker's life."""
    settle_in()
    end_as_ctrl_c_does()
    os.environ[QUIET] = "1"
    from gmu_lightning.experiment.resident import Resident

    resident = Resident()
    try:
        while True:
            what, content = connection.recv()
            if what == "warm":
                connection.send(_warm(content, resident))
            else:
                jobs, cores = content
                _do(jobs, cores, resident)
                connection.send(None)
    except (EOFError, ConnectionError):  # the sweep has ended, or was ended
        pass
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _do(jobs: Sequence[Job], cores: set[int], resident: Any) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    from gmu_lightning.sweep.stacks import perform_stacked

    perform_stacked(jobs, resident)


def _warm(jobs: Sequence[Job], resident: Any) -> Warmed:
    """Read, prepare and encode all that the valid jobs need, with every core. What goes wrong ends the jobs that need it."""
    from gmu_lightning.experiment.build import check_sense
    from gmu_lightning.experiment.resident import key_of
    from gmu_lightning.experiment.train import device_of, load

    keys: dict[str, Job] = {}
    said: set[str] = set()
    skipped = 0
    for job in jobs:
        try:
            check_sense(job.config)
            keys.setdefault(key_of(job.config), job)
        except Senseless:
            skipped += 1
        except Exception as error:
            said.add(sentence_of(error))
    cuda = False
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quiet = os.environ.pop(QUIET, "")
    for job in keys.values():
        try:
            cuda = cuda or device_of(job.config).type == "cuda"
            load(with_threads(job.config, threads), resident)
        except Exception as error:
            said.add(sentence_of(error))
    os.environ[QUIET] = quiet
    for sentence in sorted(said):
        print(f"stacked: not read in advance: {sentence}", file=sys.stderr, flush=True)
    return Warmed(len(jobs) - skipped, cuda)
