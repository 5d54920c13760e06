"""Launchers that run jobs side by side, in processes forked from a server that has imported the stack once.

A job that is killed by a signal costs that job alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from gmu_lightning.movie import UserError
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.composition import Composer
from gmu_lightning.sweep.console import settle_in
from gmu_lightning.sweep.job import Job, done_before, end_unfinished, perform_in_sweep
from gmu_lightning.sweep.plan import Plans
from gmu_lightning.sweep.task import job_of, one_device, refuse
from gmu_lightning.visible import guard_streams

PRELOAD = ["gmu_lightning.sweep.preload"]
INTERRUPTED = 130  # the exit code of a process that Ctrl-C ended


class Parallel(Launcher):
    """What the launchers share: jobs are composed while the stack is imported, and equal jobs run once."""

    threads: int

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Called by Hydra."""
        self.config = config
        self.composer = Composer(hydra_context.config_loader, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra with the overrides of every job."""
        setup_globals()
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        sweep.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        context = multiprocessing.get_context("forkserver")
        if not self.config.check:
            context.set_forkserver_preload(PRELOAD)
            forkserver.ensure_running()  # it imports while the jobs are composed here
        configs = [self._composed(list(overrides), initial_job_idx + n) for n, overrides in enumerate(job_overrides)]
        jobs = [job for config in configs if (job := _job(config, sweep)) is not None]
        if self.config.check:
            for job in jobs:
                Plans.add(job)
        else:
            once = list({job.folder: job for job in jobs}.values())
            for job in once:
                done_before(job)  # a finished run of other data stops the sweep before anything starts
            SweepFiles.plan((job.folder, job.overrides) for job in once)
            try:
                self.run(context, once)
            except (EOFError, ConnectionError) as lost:  # the server of processes is gone, and with it every worker
                for job in once:
                    end_unstarted(job, lost)
        return [_returned(config) for config in configs]

    def run(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do them, each in whatever process."""
        raise NotImplementedError

    def _composed(self, overrides: list[str], number: int) -> DictConfig:
        config = self.composer.compose(overrides, number)
        with open_dict(config):
            if config.trainer.threads is None:
                config.trainer.threads = self.threads
        return config


class Processes(Parallel):
    """At most `n_jobs` jobs at a time, a process each, with `threads` CPU threads; with CUDA they take the devices in turn."""

    def __init__(self, n_jobs: int = 2, threads: int | None = None):
        self.n_jobs = max(1, int(n_jobs))
        self.threads = threads or max(1, (os.cpu_count() or 1) // self.n_jobs)

    def run(self, context: Any, jobs: Sequence[Job]) -> None:
        """A process per job."""
        running: set[Any] = set()
        stopping = threading.Event()
        pool = ThreadPoolExecutor(self.n_jobs)
        try:
            list(pool.map(lambda numbered: _in_a_process(context, running, stopping, *numbered), enumerate(jobs)))
        except BaseException:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
        finally:
            pool.shutdown()


def _job(config: DictConfig, sweep: Path) -> Job | None:
    folder = sweep / config.hydra.sweep.subdir
    try:
        return one_device(job_of(config, config.hydra, folder, sweep.name))
    except UserError as error:
        refuse(config, config.hydra, folder, error)
        return None


def _in_a_process(context: Any, running: set[Any], stopping: threading.Event, number: int, job: Job) -> None:
    process = context.Process(target=_child, args=(job, number), daemon=False)
    process.start()
    running.add(process)
    process.join()
    running.discard(process)
    if not stopping.is_set() and process.exitcode != INTERRUPTED:  # else the sweep's end says why
        end_killed(job, process.exitcode)


def end_killed(job: Job, code: int | None, died: bool = False) -> None:
    """A job whose process ended with `code` before the job did, told so in its status.

    Args:
        died: the process was at work on the job, so the job failed even if `code` is 0.
    """
    if code or died:
        _end_as_failed(job, how_ended(code))


def end_unstarted(job: Job, lost: Exception) -> None:
    """End a job for which no process could be started, unless it is done."""
    why = str(lost) or type(lost).__name__
    _end_as_failed(job, f"no process could be started for it ({why}): see stderr, and check the installation")


def _end_as_failed(job: Job, why: str) -> None:
    if job.run.status.get("state") not in (None, "running"):
        return
    if not job.run.status:
        job.run.begin(job.config, job.overrides)
    end_unfinished(job.run, UserError(why))


def how_ended(code: int | None) -> str:
    """Return a clause on a process that ended with `code` before its work did."""
    name = signal.Signals(-code).name if code and code < 0 else f"exit code {code or 0}"
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def _child(job: Job, number: int) -> None:
    settle_in()
    end_as_ctrl_c_does()
    import torch

    visible = device_of_job(number, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible  # in time: counting devices does not start CUDA
    try:
        perform_in_sweep(job)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def end_as_ctrl_c_does() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: an interrupted sweep sends it, and which comes first is chance.

    Control characters in what it prints are shown from now on, as in the process that was typed.

    A sweep that is killed sends nothing, so its end is waited for too: else its jobs would go on for nobody.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    guard_streams()
    signal.signal(signal.SIGTERM, interrupt)
    sweep = multiprocessing.parent_process()
    if sweep is not None:
        threading.Thread(target=_end_with, args=(sweep,), daemon=True).start()


def _end_with(sweep: Any) -> None:
    sweep.join()
    os.kill(os.getpid(), signal.SIGTERM)


def device_of_job(number: int, count: int, visible: str | None) -> str | None:
    """Which of `count` CUDA devices is the job's, in turn; None where there is nothing to choose.

    `visible` is what the sweep itself may see, by number or by name.
    """
    if count < 2:
        return None
    names = visible.split(",") if visible else [str(device) for device in range(count)]
    return names[number % count]


def _returned(config: DictConfig) -> JobReturn:
    done = JobReturn()
    done.overrides, done.status, done.return_value = list(config.hydra.overrides.task), JobStatus.COMPLETED, None
    return done
