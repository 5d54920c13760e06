"""Jobs of a sweep without a Trainer each: those that differ by their seed alone as one stack, or every one by itself."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from gmu_lightning.data.progress import QUIET
from gmu_lightning.experiment.finish import finish
from gmu_lightning.experiment.heads import Single
from gmu_lightning.experiment.resident import Resident
from gmu_lightning.experiment.stack import Stack
from gmu_lightning.experiment.stackable import why_not
from gmu_lightning.experiment.train import Opened, complete, device_of, open_run
from gmu_lightning.movie import UserError
from gmu_lightning.run import setting
from gmu_lightning.sweep.job import INTERRUPTED, Job, attempted, begun, end_unfinished, ended


def perform_stacked(jobs: Sequence[Job], resident: Resident) -> None:
    """Train jobs, whatever happens being in their status.json, as `perform_in_sweep` does."""
    os.environ[QUIET] = "1"
    alike: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        alike[setting(job.config)].append(job)
    for group in alike.values():
        _perform_group(group, resident)


def _perform_group(jobs: Sequence[Job], resident: Resident) -> None:
    with ExitStack() as held:
        mine = [job for job in jobs if held.enter_context(begun(job))]
        tried = [(job, attempted(job, partial(open_run, job.config, job.run, resident))) for job in mine]
        opened = [(job, run) for job, run in tried if run is not None]
        reason = why_not(opened[0][1]) if opened else None
        if opened and reason is None:
            _train_together(opened)
            return
        if len(opened) > 1:
            print(f"one by one, since {reason}: {', '.join(job.run.folder.name for job, _ in opened)}", file=sys.stderr)
        for job, run in opened:
            ended(job, partial(complete, run, job.sweep))


def _train_together(opened: Sequence[tuple[Job, Opened]]) -> None:
    runs = [run for _, run in opened]
    try:
        heads = (Single if len(runs) == 1 else Stack)(runs, device_of(runs[0].config))
        found = heads.fit()
    except KeyboardInterrupt:
        for job, _ in opened:
            job.run.end(INTERRUPTED, INTERRUPTED)
        raise
    except (Exception, SystemExit) as error:
        for job, _ in opened:
            end_unfinished(job.run, error)
        return
    for (job, run), trained in zip(opened, found, strict=True):
        if isinstance(trained, UserError):
            end_unfinished(job.run, trained)
            continue
        ended(job, partial(finish, run, trained, job.sweep))
