"""Do the jobs of a plan beside other workers, also those of other machines. A job belongs to the worker that holds its lease."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gmu_lightning.config.groups import import_from
from gmu_lightning.console import settle_in
from gmu_lightning.files import write_text
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.files import write_sweep
from gmu_lightning.sweep.job import INTERRUPTED, Job, end_unfinished, perform_stacked
from gmu_lightning.sweep.launcher import Stacked
from gmu_lightning.sweep.session import Session
from gmu_lightning.sweep.sharing import free_jobs
from gmu_lightning.sweep.slurm_plan import FOLDER, Plan
from gmu_lightning.sweep.slurm_worker import ignored
from gmu_lightning.sweep.workers import preloading
from gmu_lightning.visible import guard_streams

if TYPE_CHECKING:
    from gmu_lightning.experiment.build import DatasetCache

logger = logging.getLogger(__name__)
BEGUN = ("running", INTERRUPTED)


class Crew(Stacked):
    """The processes of one worker: one per core on a CPU, and one with CUDA.

    Args:
        plan: of the array.
        session: notes skipped jobs.
    """

    def __init__(self, plan: Plan, session: Session):
        super().__init__()
        self.session = session
        self.perform = partial(perform_shared, plan.tokens, plan.lost)


def work(path: Path, config_dir: str | None, cpus: int, number: int, workers: int) -> int:
    """Do the free jobs of a plan until none is left. The worker that ends last writes the sweep's files.

    Args:
        path: of the plan, absolute.
        config_dir: folder of the user's own classes, or None.
        cpus: number of cores.
        number: of this worker, from 0. Each begins at another job, so that workers seldom want the same one.
        workers: their number.

    Returns:
        0, or 1 if a job failed and this worker was the last.

    Raises:
        UserError: the plan is damaged, or no process can be started.
    """
    settle_in()
    guard_streams()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config_dir:
        import_from(config_dir)
    plan = Plan.read(path, config_dir)
    sweep = path.parent.parent
    session = Session(config_dir=config_dir)
    left = [job for job in turned(plan.jobs, number / workers) if _is_left(job, plan.tokens)]
    if left:
        take_share(cpus, number * cpus)
        with ignored():
            context = preloading()
    crew = Crew(plan, session)
    while left:
        try:
            crew.run_all(context, left)
        except (EOFError, ConnectionError) as error:
            raise UserError(f"no process could be started ({error}): see the log, and check the memory") from error
        left = [job for job in left if job.folder not in session.skipped and _is_left(job, plan.tokens)]
        left = [job for job in left if _state(job) not in BEGUN] or free_jobs(left)
    others = sum(_is_left(job, plan.tokens) and job.folder not in session.skipped for job in plan.jobs)
    if others:
        logger.warning("%d jobs are being done by other workers: the last one writes the sweep's files", others)
        return 0
    skipped = [*plan.skipped, *session.skipped.values()]
    failed = write_sweep(sweep, plan.started, config_dir=config_dir, skipped=skipped, asked=[job.folder for job in plan.jobs])
    return 1 if failed else 0


def turned(jobs: Sequence[Job], start: float) -> list[Job]:
    """Return the jobs in the same order, from the given part of them on, and then the others."""
    first = int(len(jobs) * start)
    return [*jobs[first:], *jobs[:first]]


def take_share(cpus: int, first: int) -> None:
    """Keep this process and its children to `cpus` cores, from the core number `first` on, if the cluster allows it more."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > cpus:
        os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in range(cpus)})


def perform_shared(tokens: Mapping[str, str], lost: int, jobs: Sequence[Job], cache: DatasetCache) -> dict[str, str]:
    """Do jobs as `perform_stacked` does. End those whose workers were killed more than `lost` times.

    Args:
        tokens: {folder of a failed job that is to be done again: token of that failure}.
    """
    mine = []
    for job in jobs:
        again = False
        with suppress(UserError):  # a damaged status is reported by the job
            again = _is_tried_again(job, tokens)
            if again:
                _losses(job).unlink(missing_ok=True)
            elif _was_killed(job) and _ended_as_lost(job, lost):
                continue
        mine.append(replace(job, retry=again))
    return perform_stacked(mine, cache)


def _state(job: Job) -> str | None:
    with suppress(UserError):  # the end of the sweep names a damaged status
        state: str | None = job.run.status.get("state")
        return state
    return "failed"


def _is_tried_again(job: Job, tokens: Mapping[str, str]) -> bool:
    status = job.run.status
    return status.get("state") == "failed" and job.folder in tokens and status.get("token", "") == tokens[job.folder]


def _is_left(job: Job, tokens: Mapping[str, str]) -> bool:
    with suppress(UserError):
        return _state(job) in (None, *BEGUN) or _is_tried_again(job, tokens)
    return False


def _was_killed(job: Job) -> bool:
    return job.run.status.get("state") == "running" and not job.run.is_held


def _losses(job: Job) -> Path:
    """Return the file that counts how often the job has lost its worker."""
    folder = Path(job.folder)
    return folder.parent / FOLDER / "lost" / folder.name


def _ended_as_lost(job: Job, most: int) -> bool:
    """Count one more loss, and end the job as failed after more than `most` of them. Return whether it has been ended."""
    with job.run.held() as mine:
        if not mine or _state(job) != "running":
            return False
        path = _losses(job)
        count = len(path.read_text(encoding="utf-8")) + 1 if path.exists() else 1
        write_text(path, "." * count)
        if count > most:
            logs = path.parent.parent
            end_unfinished(job.run, UserError(f"its worker was killed {count} times: see {logs}, or ask for more memory"))
        return count > most
