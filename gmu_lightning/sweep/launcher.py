"""Launchers that run jobs side by side in worker processes. The processes are forked from a server that has imported torch.

`processes` gives each job a process of its own. `stacked` keeps its workers, which read and encode data once and share them
between jobs. If a worker dies, only its own jobs fail (`sweep.workers`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, open_dict

from gmu_lightning.config.checks import check_arguments
from gmu_lightning.config.hydra_versions import name_overrides
from gmu_lightning.config.ranges import Few
from gmu_lightning.console import loud, quiet
from gmu_lightning.movie import IncompatibleChoices, UserError
from gmu_lightning.parallel import cores
from gmu_lightning.signals import how_ended
from gmu_lightning.sweep.job import (
    Job,
    done_before,
    end_lost,
    failed_before,
    perform_in_sweep,
    perform_stacked,
    sentence_of,
)
from gmu_lightning.sweep.session import Session
from gmu_lightning.sweep.sharing import free_jobs
from gmu_lightning.sweep.workers import Task, Worker, preloading, share_out, shared_by, shares_of

if TYPE_CHECKING:
    from gmu_lightning.experiment.build import DatasetCache

logger = logging.getLogger(__name__)


class Composer:
    """Composes jobs as Hydra does. Jobs that differ only in their seed are composed once, for it takes a tenth of a second."""

    def __init__(self, loader: Any, master: DictConfig):
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Return the configuration of one job. Raises what Hydra raises."""
        rest = tuple(line for line in overrides if not line.startswith("seed="))
        if rest not in self.composed:
            self.composed[rest] = self.loader.load_sweep_config(self.master, list(rest))
        config = deepcopy(self.composed[rest])
        parsed = self.parser.parse_overrides(list(overrides))
        for override in parsed:
            if override.key_or_group == "seed" and override.get_key_element() == "seed":
                config.seed = override.value()
        with open_dict(config.hydra):
            config.hydra.overrides.task = [line for line in overrides if not line.startswith("hydra.")]
            config.hydra.job.id, config.hydra.job.num = str(number), number
        name_overrides(config, parsed)
        return config


class Cartesian(Sweeper):
    """Hydra's sweeper of cross products, without its check for `Parallel` launchers: both would compose every job."""

    def __init__(self, max_batch_size: int | None = None):
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # now: Hydra loads its plugins anew as it starts

        self.basic = BasicSweeper(max_batch_size)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Prepare for the jobs. Hydra calls it."""
        self.basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        session: Session = task_function.session
        session.begin_sweep(config)
        check, max_batch_size = self.basic.validate_batch_is_legal, self.basic.max_batch_size

        def planned(batch: Sequence[Sequence[str]]) -> None:
            if not isinstance(self.basic.launcher, Parallel):
                check(batch)
            if max_batch_size is None:  # a batch may hold some seeds of a setting
                session.caution(batch)
            session.plan((None, overrides) for overrides in batch)

        self.basic.validate_batch_is_legal = planned  # type: ignore[method-assign]

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs of the overrides typed. Hydra calls it. Raises what Hydra raises."""
        return self.basic.sweep(arguments)


class Parallel(Launcher):
    """Base of the launchers: it composes the jobs while the server imports its modules, and runs equal jobs once.

    Attributes:
        threads: of a job on a CPU.
        perform: does jobs in a worker that lasts, as `perform(jobs, cache)`. It returns {folder: reason} of the skipped ones.
    """

    threads: int
    perform: Callable[..., dict[str, str]] = staticmethod(perform_stacked)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Prepare for the jobs. Hydra calls it."""
        self.config = config
        self.session: Session = task_function.session
        self.composer = Composer(hydra_context.config_loader, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of these overrides. Hydra calls it."""
        setup_globals()
        self.session.begin_sweep(self.config)
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        sweep.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        context = self.session.processes = None if self.config.check else self.context()
        configs = [self._composed(list(overrides), initial_job_idx + n) for n, overrides in enumerate(job_overrides)]
        jobs = [job for config in configs if (job := self._job(config, sweep)) is not None]
        if self.config.check:
            self.session.checked += jobs
        else:
            once = list({job.folder: job for job in jobs}.values())
            left = [job for job in once if not done_before(job)]  # a finished run of other data stops the sweep at once
            self.session.failed_before += [job.folder for job in once if failed_before(job)]
            self.session.plan((job.folder, job.overrides) for job in left)
            self.complete(context, left)
        return [_returned(config) for config in configs]

    def complete(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do the unfinished jobs of the sweep, those too that another process leaves unfinished meanwhile."""
        while jobs:
            self._run(context, jobs)
            jobs = free_jobs(jobs)

    def _run(self, context: Any, jobs: Sequence[Job]) -> None:
        try:
            self.run_all(context, jobs)
        except (EOFError, ConnectionError) as lost:  # the server of processes is gone, and with it every worker
            why = str(lost) or type(lost).__name__
            for job in jobs:
                end_lost(job, f"no process could be started for it ({why}): see stderr, and check the installation")

    def run_all(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do jobs, first those on one device. Raises EOFError or ConnectionError if no process can be started."""
        alone = [job for job in jobs if job.config.trainer.on_one_device]
        if alone:
            self.run(context, alone)
        self._run_groups(context, [job for job in jobs if not job.config.trainer.on_one_device])

    def context(self) -> Any:
        """Return the `multiprocessing` context of this machine's workers. It imports their modules while jobs are composed."""
        return preloading()

    def run(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do the jobs, each on one device, in workers of the context."""
        raise NotImplementedError

    def _run_groups(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do the jobs of several devices, one after the other."""
        worker = Worker(context)
        try:
            share_out([worker], [Task(self.perform, ((job,),), (job,)) for job in jobs], self.note)
        finally:
            worker.end()

    def warmed(self, worker: Worker, jobs: Sequence[Job]) -> tuple[list[Job], bool] | None:
        """Read and encode the inputs of the jobs in one worker, and note the jobs that are skipped.

        Returns:
            The other jobs, and whether one of them is trained on CUDA. None if the worker has ended.
        """
        found: list[Warmed | None] = []
        share_out([worker], [Task(warm, (jobs,))], lambda _, result: found.append(result))
        warmed = next(iter(found), None)
        if warmed is None:
            if worker.ended:
                return None
            logger.warning("nothing was read in advance, for %s", how_ended(worker.exit_code))
            warmed = Warmed({}, cuda=False)
        skipped = [job for job in jobs if job.folder in warmed.skipped]
        self.note(Task(warm, (), tuple(skipped)), warmed.skipped)
        self.session.drop_skipped()
        return [job for job in jobs if job not in skipped], warmed.cuda

    def note(self, task: Task, skipped: Mapping[str, str] | None) -> None:
        """Note the end of a task.

        Args:
            skipped: {folder: reason} of its skipped jobs; None if its process died.
        """
        for job in task.jobs:
            if skipped and job.folder in skipped:
                self.session.skip(job.folder, job.overrides, skipped[job.folder])
        self.session.ended(sum(job.folder not in self.session.skipped for job in task.jobs))

    def _composed(self, overrides: list[str], number: int) -> DictConfig:
        config = self.composer.compose(overrides, number)
        with open_dict(config):
            if config.trainer.threads is None and config.trainer.devices == 1:  # processes of a group share the cores
                config.trainer.threads = self.threads
        return config

    def _job(self, config: DictConfig, sweep: Path) -> Job | None:
        folder = sweep / config.hydra.sweep.subdir
        try:
            return self.session.job_of(config, config.hydra, folder, sweep.name)
        except UserError as error:
            self.session.refuse(config, config.hydra, folder, error)
            return None


class Processes(Parallel):
    """Runs at most `n_jobs` jobs at a time, each in its own process with `threads` CPU threads and one CUDA device in turn."""

    def __init__(self, n_jobs: int = 2, threads: int | None = None):
        self.n_jobs = max(1, int(n_jobs))
        self.threads = threads or max(1, (os.cpu_count() or 1) // self.n_jobs)

    def run(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do each job in a process of its own."""
        workers = [Worker(context, lasting=False) for _ in range(min(self.n_jobs, len(jobs)))]
        try:
            share_out(workers, [Task(_do_alone, (job, number), (job,)) for number, job in enumerate(jobs)], self.note)
        finally:
            for worker in workers:
                worker.end()


class Warmed(NamedTuple):
    """Result of `warm`.

    Attributes:
        skipped: {folder: reason} of the jobs whose choices do not go together.
        cuda: whether one of them is trained on CUDA.
    """

    skipped: Mapping[str, str]
    cuda: bool


class Stacked(Parallel):
    """Runs jobs in workers that last.

    On a CPU there is one worker of one thread for each core, bound to it, because heads are too small for several threads.
    With CUDA one worker trains jobs that differ only in their seed as a single model with an additional axis
    (`experiment.fast_loop`). Heads over cached vectors need no Trainer; other jobs get one.

    Args:
        how: `workers`, `stacks`, or `auto`: stacks where CUDA is used, workers elsewhere.
        workers: number of workers; None for one per core.

    Raises:
        UserError: `how` or `workers` has another value.
    """

    threads = 1

    def __init__(self, how: Literal["auto", "workers", "stacks"] = "auto", workers: Few | None = None):
        check_arguments(Stacked, {"how": how, "workers": workers}, "hydra.launcher")
        self.how, self.workers = how, workers

    def run(self, context: Any, jobs: Sequence[Job]) -> None:
        """Do the jobs whose encoders are frozen or small side by side, then the others one by one, each with every core."""
        small = [job for job in jobs if not job.config.fine_tuned]
        large = [job for job in jobs if job.config.fine_tuned]
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        workers = [Worker(context)]
        try:
            if small:
                self._run_small(context, workers, small, mine)
            if large:
                which = "1 job trains" if len(large) == 1 else f"{len(large)} jobs train"
                logger.warning("stacked: %s a pretrained encoder: one by one, with every core", which)
                workers[0].share = set(mine)
                alone = [replace(job, config=job.config.with_threads(len(mine))) for job in large]
                share_out(workers[:1], [Task(self.perform, ((job,),), (job,)) for job in alone], self.note)
        finally:
            for worker in workers:
                worker.end()

    def _run_small(self, context: Any, workers: list[Worker], jobs: Sequence[Job], cores: Sequence[int]) -> None:
        """Read and encode in the first worker. Then add as many workers as suit the jobs to the list, and do the jobs in all."""
        warmed = self.warmed(workers[0], jobs)
        if warmed is None or not warmed[0]:
            return
        jobs, cuda = warmed
        stacks = cuda if self.how == "auto" else self.how == "stacks"
        each = max(job.config.trainer.threads or 1 for job in jobs)
        count = 1 if stacks else max(1, min(self.workers or len(cores) // each, len(jobs)))
        logger.warning("%s", _plan(len(jobs), count, each, stacks))
        workers += [Worker(context) for _ in range(count - 1)]
        shares = [set(cores)] if stacks else shares_of(cores, each)
        for n, worker in enumerate(workers):
            worker.share = shares[n % len(shares)]
        groups = [tuple(jobs)] if stacks else [(job,) for job in jobs]
        share_out(workers, [Task(self.perform, (group,), group) for group in groups], self.note)


def _plan(jobs: int, workers: int, threads: int, stacks: bool) -> str:
    if stacks:
        return f"stacked: {jobs} jobs on one device; those that differ by their seed alone are trained as one"
    return f"stacked: {shared_by(jobs, workers, threads)}; data and features are read once in each"


def warm(jobs: Sequence[Job], cache: DatasetCache) -> Warmed:
    """Read, prepare and encode all inputs of valid jobs, with every core. Errors become warnings; the jobs meet them again."""
    from gmu_lightning.experiment.build import data_key
    from gmu_lightning.experiment.choices import check_choices
    from gmu_lightning.experiment.environment import device_of
    from gmu_lightning.experiment.train import load

    keys: dict[str, Job] = {}
    problems: set[str] = set()
    skipped: dict[str, str] = {}
    for job in jobs:
        try:
            check_choices(job.config)
            keys.setdefault(data_key(job.config), job)
        except IncompatibleChoices as reason:
            skipped[job.folder] = str(reason)
        except Exception as error:
            problems.add(sentence_of(error))
    cuda = False
    loud()
    for job in keys.values():
        try:
            cuda = cuda or device_of(job.config.trainer).type == "cuda"
            load(job.config.with_threads(cores()), cache)
        except Exception as error:
            problems.add(sentence_of(error))
    quiet()
    for sentence in sorted(problems):
        logger.warning("not read in advance: %s", sentence)
    return Warmed(skipped, cuda)


def _do_alone(job: Job, number: int, cache: DatasetCache) -> dict[str, str]:
    import torch

    visible = device_of_job(number, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible  # early enough: counting devices does not start CUDA
    reason = perform_in_sweep(job)
    return {job.folder: reason} if reason else {}


def device_of_job(number: int, count: int, visible: str | None) -> str | None:
    """Return the CUDA device of a job, in turn; None if there are fewer than two devices.

    Args:
        number: of the job, from 0.
        count: number of CUDA devices.
        visible: value of CUDA_VISIBLE_DEVICES in the sweep; None if it is unset.
    """
    if count < 2:
        return None
    names = visible.split(",") if visible else [str(device) for device in range(count)]
    return names[number % count]


def _returned(config: DictConfig) -> JobReturn:
    done = JobReturn()
    done.overrides, done.status, done.return_value = list(config.hydra.overrides.task), JobStatus.COMPLETED, None
    return done
