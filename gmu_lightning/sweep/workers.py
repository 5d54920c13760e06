"""Worker processes of both launchers. Each does the tasks that it is given until it is ended.

If a process dies, only the jobs of its task fail. Pebble's pool does not suit for three reasons. It waits for ever for a task
whose process ends with exit code 0. It kills a process 3 s after an interruption, before the job has recorded it. It cannot bind
a worker to cores.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from gmu_lightning.console import quiet, settle_in
from gmu_lightning.signals import ENDING, Raises, handle, how_ended
from gmu_lightning.sweep.job import Job, end_lost
from gmu_lightning.visible import guard_streams

INTERRUPTED = 130  # the exit code of a process that Ctrl-C ended
PAUSE = 0.2  # seconds
STACK = [  # modules that jobs need, imported once in the server that forks the workers
    *("gmu_lightning.lightning", "gmu_lightning.experiment.train", "gmu_lightning.sweep.launcher"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "pyarrow.parquet", "pandas"),
]


def preloading() -> Any:
    """Return a `multiprocessing` context whose processes are forked from a server that imports the jobs' modules once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(STACK)
    forkserver.ensure_running()
    return context


class Task(NamedTuple):
    """Work for one worker.

    Attributes:
        work: called in the worker as `work(*arguments, cache)`; `cache` is the `DatasetCache` of the process.
        jobs: of this task. If the process dies, those that have not ended are recorded as failed. After an interruption, the end
            of the sweep records them.
    """

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    jobs: tuple[Job, ...] = ()


class Worker:
    """A process that does one task after the other. It starts with the first task; after a death the next task starts a new one.

    Args:
        context: of multiprocessing.
        lasting: whether one process does all tasks; otherwise each task has its own process.

    Attributes:
        share: cores to which the process is bound from the next task on, where the system can bind. None leaves the binding as
            it is; a new process has the cores of the sweep.
        ended: whether the worker takes no more tasks: after `end`, or once its process was interrupted.
        exit_code: of the process that died last; None before.
    """

    def __init__(self, context: Any, lasting: bool = True):
        self.context, self.lasting = context, lasting
        self.share: set[int] | None = None
        self.ended = False
        self.exit_code: int | None = None
        self._process: Any = None

    def do(self, task: Task) -> Any:
        """Do the task in the process, and return its result, or None if the process died, as it does if `work` raises.

        Raises:
            OSError, EOFError: no process can be started.
            PicklingError, TypeError, AttributeError: the task cannot be pickled.
        """
        if self._process is None:
            self._connection, theirs = self.context.Pipe()
            process = self.context.Process(target=_live, args=(theirs,), daemon=False)
            process.start()
            self._process = process
            theirs.close()
        try:
            self._connection.send((task.work, task.arguments, self.share))
            answer = self._receive()
        except (EOFError, OSError):
            self._process.join()
            self._note_death(task)
            return None
        if not self.lasting:
            self._connection.close()
            self._process.join()
            self._process = None
        return answer

    def _receive(self) -> Any:
        """Return the process's answer. Raises EOFError if it died, even if a child of it still keeps the connection open."""
        if self._connection not in wait([self._connection, self._process.sentinel]):
            raise EOFError
        return self._connection.recv()

    def _note_death(self, task: Task) -> None:
        self.exit_code, self._process = self._process.exitcode, None
        if self.ended or self.exit_code == INTERRUPTED:  # the end of the sweep records the reason
            self.ended = True
            return
        for job in task.jobs:
            end_lost(job, how_ended(self.exit_code))

    def is_cut_off(self) -> bool:
        """Return whether the worker may never return from its task, since what it needs is lost."""
        return False

    def end(self) -> None:
        """End the worker and its process, and wait for it.

        An idle process ends by itself. One still at work after a second gets SIGTERM, so that it can record the interruption.
        """
        self.ended = True
        process = self._process
        if process is None:
            return
        self._connection.close()
        process.join(timeout=1)
        if process.is_alive():
            process.terminate()
            process.join()


def _drop(task: Task, result: Any) -> None:
    """Drop the result of a task."""


class Returned(Exception):
    """Raised by a worker that did not do its task. The task goes back to the front of the queue, for any worker."""


def share_out(workers: Sequence[Worker], tasks: Iterable[Task], then: Callable[[Task, Any], None] = _drop) -> list[Task]:
    """Give the tasks to the workers, in order, and wait until all are done.

    Each worker takes the next task as soon as it is free. A worker that raises takes no more tasks, and the others go on. Its
    error is raised at the end; of several, the first. A task that a worker returns is given out again.

    Args:
        then: called with each task and its result, or None if its process died. One call runs at a time.

    Returns:
        The tasks that were not done, since every worker has ended or is cut off.
    """
    queue, busy = deque(tasks), list[Task]()
    problems: list[BaseException] = []
    turn = threading.Condition()  # guards the queue, the tasks at work and `then`

    def one(worker: Worker, task: Task) -> bool:
        """Do a task, and return False if it came back."""
        try:
            result = worker.do(task)
        except Returned:
            return False
        with turn:
            then(task, result)
        return True

    def drain(worker: Worker) -> None:
        while not worker.ended:
            with turn:
                if not queue:
                    if not busy:
                        return
                    turn.wait(timeout=PAUSE)  # the task of a busy worker may come back
                    continue
                task = queue.popleft()
                busy.append(task)
            done = True
            try:
                done = one(worker, task)
            except BaseException as problem:
                problems.append(problem)
                return
            finally:
                with turn:
                    busy[:] = [other for other in busy if other is not task]
                    if not done:
                        queue.appendleft(task)
                    turn.notify_all()
            if not done:
                time.sleep(PAUSE)  # let the others take it

    threads = [threading.Thread(target=drain, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not any(worker.is_cut_off() for worker in workers):  # in short steps, for Ctrl-C
            thread.join(timeout=PAUSE)
    if problems:
        raise problems[0]
    with turn:
        left = [*busy, *queue]
        queue.clear()
    return left


def done_apart(context: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return `work(*arguments, cache)`, done in a new process of the context; None if no process could do it."""
    worker = Worker(context, lasting=False)
    try:
        return worker.do(Task(work, arguments))
    except (OSError, EOFError):  # the server of processes is gone
        return None
    finally:
        worker.end()


def shares_of(cores: Sequence[int], each: int) -> list[set[int]]:
    """Return the cores in groups of `each`, at least 1. The last group also gets the remainder. Too few cores form one group."""
    whole = max(1, len(cores) // each)
    return [set(cores[n * each : (n + 1) * each if n + 1 < whole else None]) for n in range(whole)]


def shared_by(jobs: int, workers: int, threads: int) -> str:
    """Return a clause such as `12 jobs in 2 workers of one thread`."""
    work = "1 job" if jobs == 1 else f"{jobs} jobs"
    many = "1 worker" if workers == 1 else f"{workers} workers"
    return f"{work} in {many} of {'one thread' if threads == 1 else f'{threads} threads'}"


def _live(connection: Connection) -> None:
    """Do the tasks that arrive through the connection until it is closed."""
    settle_in()
    handler = end_as_ctrl_c_does()
    quiet()
    from gmu_lightning.experiment.build import DatasetCache

    cache = DatasetCache()
    try:
        while True:
            work, arguments, share = connection.recv()
            if share is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, share)
            answer = work(*arguments, cache)
            if handler.raised is not None:  # a library has swallowed it
                raise handler.raised
            connection.send(answer)
    except (EOFError, ConnectionError):  # the sweep has ended
        pass
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def end_as_ctrl_c_does() -> Raises:
    """Let signals raise KeyboardInterrupt in this process, and show control characters in its output as escapes.

    The process gets SIGTERM when its parent process ends, even if that was killed. Call it in the main thread.

    Returns:
        The handler of the signals.
    """
    guard_streams()
    handler = Raises()
    handle(handler, *ENDING)
    sweep = multiprocessing.parent_process()
    if sweep is not None:
        threading.Thread(target=_end_with, args=(sweep,), daemon=True).start()
    return handler


def _end_with(sweep: Any) -> None:
    sweep.join()
    os.kill(os.getpid(), signal.SIGTERM)
