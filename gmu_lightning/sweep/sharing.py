"""Wait for jobs that other processes do, also those of other machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from gmu_lightning.files import LEASE, acquired, lease
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import INTERRUPTED, Job

logger = logging.getLogger(__name__)


def free_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Return the unfinished jobs that another process held and holds no more.

    If another process holds jobs, wait until it has left one of them unfinished, or has shown for a while that it lives.
    """
    held = [job for job in jobs if _is_unfinished(job)]
    leases = [lease(job.run / ".running") for job in held]  # a lease that is asked again and again notices a dead holder
    end = time.monotonic() + 1.2 * LEASE
    free: list[Job] = []
    while held:
        still = []
        for job, asked in zip(held, leases, strict=True):
            if acquired(asked):
                free += [job] if _is_unfinished(job) else []
                asked.release()
            else:
                still.append((job, asked))
        held, leases = [job for job, _ in still], [asked for _, asked in still]
        if free or not held or time.monotonic() > end:
            break
        time.sleep(1.0)
    if held and not free:
        which = "1 job is" if len(held) == 1 else f"{len(held)} jobs are"
        logger.warning("%s being done by another process, which writes the leaderboard anew when it ends", which)
    return free


def _is_unfinished(job: Job) -> bool:
    with suppress(UserError):  # the end of the sweep names a damaged status
        return job.run.status.get("state") in ("running", INTERRUPTED)
    return False
