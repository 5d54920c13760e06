"""Workers of a Ray cluster: an actor on some node, which does its tasks in a process of its own.

The process is the one of `sweep.workers`. So a job that is killed, crashes or exits costs only itself, and is recorded as under
the launchers of one machine, while the actor lives on. The end of an actor means that its machine is lost: Ray's daemon there was
killed, the machine is off or unreachable, or Ray ended the actor because the machine is short of memory.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from filelock import Timeout

from gmu_lightning.files import LEASE, lease
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import end_unfinished
from gmu_lightning.sweep.ray_cluster import Cluster
from gmu_lightning.sweep.workers import Returned, Task, Worker, preloading
from gmu_lightning.visible import first_line

if TYPE_CHECKING:
    from filelock import SoftFileLease

logger = logging.getLogger(__name__)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # Ray sets the first to the CPUs of an actor
LISTEN = 2.0  # seconds between two looks at a task's output
READY = 1.0  # seconds; how long a task waits for a starting worker
WAITING = 60.0  # seconds between two messages on a lack of room
ENDING = 15.0  # seconds; the limit for a worker of a lost cluster to end its process
LOCKED = 1.5 * LEASE  # seconds; the limit for a lost machine to give up its jobs
MEMORY = re.compile(r"\bOOM\b|OUT_OF_MEMORY|out of memory|low on memory|memory pressure")


class Setting(NamedTuple):
    """The surroundings of this process, which the processes of actors get too.

    Attributes:
        folder: the current one.
        command: the words of the command, for environment.json.
        path: where Python finds modules.
        environment: {variable: value}, None where it is unset.
    """

    folder: str
    command: Sequence[str]
    path: Sequence[str]
    environment: Mapping[str, str | None]

    @classmethod
    def here(cls, same_machine: bool = False) -> Setting:
        """Return those of this process. The home folder is among them for an actor of the same machine."""
        names = (*THREADS, "TOKENIZERS_PARALLELISM", *(["HOME"] if same_machine else []))
        return cls(os.getcwd(), sys.argv, list(sys.path), {name: os.environ.get(name) for name in names})  # noqa: PTH109

    def take(self) -> None:
        """Apply them to this process. Modules are also looked for where this process found them before."""
        os.chdir(self.folder)
        sys.argv = list(self.command)
        sys.path[:0] = [place for place in self.path if place not in sys.path]
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Done(NamedTuple):
    """The end of a task in an actor: its result, the attributes of the actor's `Worker`, and the output since the last look."""

    result: Any
    exit_code: int | None
    ended: bool
    output: tuple[str, str]


class Seat:
    """The actor. Ray calls its methods in threads, so that it can be ended while it is at work.

    Args:
        setting: of the process that runs the sweep.
        gpus: whether the actor may use the GPUs that Ray gave it. Otherwise it sees none.
    """

    def __init__(self, setting: Setting, gpus: bool):
        setting.take()
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # by default an actor without GPUs sees all of them
        sys.modules["__main__"].__file__ = None  # Ray's own program: our processes need not run it again
        self.output = [_captured(number) for number in (1, 2)]
        self.read = [0, 0]
        self.turn = threading.Lock()
        self.worker = Worker(preloading())

    def node(self) -> str:
        """Return Ray's name of this node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def do(self, task: Task) -> Done:
        """Do a task, and return its end. Raises what `Worker.do` raises."""
        result = self.worker.do(task)
        return Done(result, self.worker.exit_code, self.worker.ended, self.said())

    def said(self) -> tuple[str, str]:
        """Return what the processes have printed to stdout and stderr since the last call."""
        with self.turn:
            parts = []
            for n, file in enumerate(self.output):
                new = os.pread(file.fileno(), 1 << 20, self.read[n])
                self.read[n] += len(new)
                parts.append(new.decode("utf-8", "replace"))
            return parts[0], parts[1]

    def end(self) -> tuple[str, str]:
        """End the process, which records an interruption if it is at work. Return the rest of the output."""
        self.worker.end()
        return self.said()


def _captured(number: int) -> IO[bytes]:
    """Send what this process and its children write to a file descriptor into a file, and return it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the actor
    os.dup2(file.fileno(), number)
    return file


class Losses:
    """Counts how often each task has lost its machine.

    Args:
        limit: after so many repetitions a task is given up.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.counts: Counter[int] = Counter()
        self.since: dict[int, float] = {}
        self.leases: dict[int, list[SoftFileLease]] = {}  # each is asked again and again, for so it notices a dead holder

    def note(self, task: Task) -> bool:
        """Count a loss. Return whether the task may be done again."""
        self.counts[id(task)] += 1
        self.since[id(task)] = time.monotonic()
        self.leases[id(task)] = [lease(job.run / ".running") for job in task.jobs]
        return self.counts[id(task)] <= self.limit

    def is_held(self, task: Task) -> bool:
        """Return whether a process of the lost machine still holds the lock of one of the task's jobs."""
        if time.monotonic() - self.since.get(id(task), -LOCKED) >= LOCKED:
            return False
        for asked, job in zip(self.leases[id(task)], task.jobs, strict=True):
            if not job.run.status:  # the machine was lost before the job began
                continue
            try:
                with asked.acquire(timeout=0):
                    pass
            except Timeout:
                return True
        return False


class RayWorker(Worker):
    """A worker on some node of the cluster. If its machine is lost, an actor on another one takes its place.

    Args:
        cluster: that has been joined.
        cpus, gpus: of the actor.
        losses: of the sweep.
    """

    def __init__(self, cluster: Cluster, cpus: int, gpus: float, losses: Losses):
        super().__init__(None)
        self.cluster, self.cpus, self.gpus, self.losses = cluster, cpus, gpus, losses
        self.node: str | None = None
        self._actor: Any = None
        self._starting: Any = None
        self._asked = self._told = 0.0

    def begin(self) -> None:
        """Ask Ray for an actor. It imports its modules before the first task arrives."""
        import ray

        actor = ray.remote(Seat).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0, max_concurrency=4
        )
        self._actor = actor.remote(Setting.here(self.cluster.address == "local"), self.gpus > 0)
        self._starting = self._actor.node.remote()
        self._asked = self._told = time.monotonic()

    def do(self, task: Task) -> Any:
        """Do the task, and return its result, or None if its process died or its machine was lost too often.

        Raises:
            Returned: no actor runs yet, or the machine was lost and the task may be done again.
            UserError: no process can be started on a node.
        """
        import ray

        if self.losses.is_held(task) or not self._runs():
            raise Returned
        try:
            done = self._done(self._actor.do.remote(task))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            if self.ended:
                return None
            return self._lost(task, how_lost(error))
        if done.ended and not self.ended:  # somebody ended the process, such as the scheduler of its machine
            return self._lost(task, "its process was interrupted there")
        self.exit_code = done.exit_code
        return done.result

    def _done(self, answer: Any) -> Done:
        import ray

        while not ray.wait([answer], timeout=LISTEN)[0]:
            with suppress(ray.exceptions.RayError):
                _pass_on(ray.get(self._actor.said.remote(), timeout=LISTEN))
        done: Done = ray.get(answer)
        _pass_on(done.output)
        return done

    def _runs(self) -> bool:
        """Return whether the actor runs. Ask for one if there is none, and wait a moment for it."""
        import ray

        if self._actor is None:
            self.begin()
        if self._starting is None:
            return True
        if not ray.wait([self._starting], timeout=READY)[0]:
            self._wait_on()
            return False
        try:
            node = ray.get(self._starting)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if "creation task" in str(error) or cause is not None:
                raise UserError(f"no worker can be started on a node: {_last_line(cause or error)}") from error
            self._drop()  # its machine was lost before it began
            return False
        self._starting = None
        names = {one.id: one.name for one in self.cluster.nodes()}
        self.node = names.get(node, node)
        return True

    def _wait_on(self) -> None:
        """Say from time to time that there is no room. End the worker if no node that is left is large enough."""
        moment = time.monotonic()
        if moment - self._told < WAITING and moment - self._asked > READY * 2:
            return
        nodes = self.cluster.nodes()
        if not any(node.room(self.cpus, self.gpus) for node in nodes):
            self.ended = True
        elif moment - self._told >= WAITING:
            self._told = moment
            logger.warning("ray: a worker waits for room: others use the cluster at %s", self.cluster.address)

    def _lost(self, task: Task, how: str) -> None:
        where = f"node {self.node}"
        self._drop()
        again = self.losses.note(task)
        names = ", ".join(job.run.folder.name for job in task.jobs) or "a part of the data"
        if again:
            logger.warning("%s  lost with its worker on %s (%s): it is done again", names, where, how)
            raise Returned
        times = self.losses.counts[id(task)]
        for job in task.jobs:
            if job.run.status.get("state") not in ("finished", "failed"):
                if not job.run.status:
                    job.run.begin(job.config.mapping, job.overrides)
                end_unfinished(job.run, UserError(f"its worker was lost {times} times, the last time on {where} ({how})"))

    def _drop(self) -> None:
        import ray

        with suppress(Exception):
            if not self.cluster.lost:
                ray.kill(self._actor, no_restart=True)
        self._actor = self._starting = None

    def is_cut_off(self) -> bool:
        """Return whether the first node of the cluster is lost. The worker has then ended, though its process may still work."""
        self.ended = self.ended or self.cluster.is_lost()
        return self.cluster.lost

    def end(self) -> None:
        """End the actor and its process. A process at work records the interruption first."""
        import ray

        self.ended = True
        if self._actor is None:
            return
        if self._starting is None:
            with suppress(ray.exceptions.RayError):
                _pass_on(ray.get(self._actor.end.remote(), timeout=ENDING if self.cluster.lost else LOCKED))
        self._drop()


def end_all(workers: Sequence[RayWorker]) -> None:
    """End workers, all at once."""
    if workers:
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(RayWorker.end, workers))


def how_lost(error: Exception) -> str:
    """Return a clause on the end of an actor, from Ray's error."""
    text = str(error)
    if MEMORY.search(text):
        return "Ray ended it because the node was short of memory"
    return "the node is gone, or its process was killed"


def _last_line(error: BaseException) -> str:
    """Return the last line of an error of Ray, which ends with the traceback of the actor."""
    return (str(error).strip() or first_line(error)).splitlines()[-1]


def _pass_on(output: tuple[str, str]) -> None:
    for text, stream in zip(output, (sys.stdout, sys.stderr), strict=True):
        if text:
            stream.write(text)
            stream.flush()
