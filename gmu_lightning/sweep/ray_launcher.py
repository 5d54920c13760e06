"""The launcher of many machines: hydra/launcher=ray. Its workers are actors of a Ray cluster that keep features in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from gmu_lightning.config.checks import check_arguments
from gmu_lightning.config.ranges import Few
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import INTERRUPTED, Job, perform_stacked
from gmu_lightning.sweep.launcher import Parallel
from gmu_lightning.sweep.ray_cluster import Cluster, folders_of, require_ray
from gmu_lightning.sweep.ray_worker import Losses, RayWorker, end_all
from gmu_lightning.sweep.workers import Task, share_out, shared_by

logger = logging.getLogger(__name__)
Share = Annotated[float, Ge(0), Le(1024)]
Times = Annotated[int, Ge(0), Le(100)]


class Ray(Parallel):
    """Runs jobs in actors of a Ray cluster, as `Stacked` runs them in processes of one machine.

    A job whose machine is lost is given to another worker. A job that fails by itself is recorded, and not repeated. All nodes
    need the same versions, and the same disk for the sweep, the data and the store; this is checked before work.

    Args:
        address: `auto` for the cluster that this machine belongs to, HOST:PORT of one, or `local` for one that is started on this
            machine and ends with the command.
        workers: number of actors; None for one per core, or one per GPU where jobs use CUDA.
        cpus: of each actor; None for the threads of a job.
        gpus: of each actor; None for one where jobs use CUDA, and none elsewhere.
        lost: how often a job is repeated that has lost its machine.

    Raises:
        UserError: an argument has another value, or Ray is not installed.
    """

    threads = 1

    def __init__(
        self,
        address: str = "auto",
        workers: Few | None = None,
        cpus: Few | None = None,
        gpus: Share | None = None,
        lost: Times = 2,
    ):
        given = {"address": address, "workers": workers, "cpus": cpus, "gpus": gpus, "lost": lost}
        check_arguments(Ray, given, "hydra.launcher")
        if address not in ("auto", "local") and not _is_host(address):
            raise UserError(f"hydra.launcher.address={address} is no address: give auto, local, or HOST:PORT of the first node")
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UserError(f"hydra.launcher.gpus={gpus:g} is not possible: give a whole number, or a share below 1")
        require_ray()
        self.address, self.workers, self.cpus, self.gpus, self.lost = address, workers, cpus, gpus, lost

    def context(self) -> None:
        """Return None: the nodes start the processes."""

    def run(self, context: None, jobs: Sequence[Job]) -> None:
        """Do the jobs whose encoders are frozen or small in small workers, then the others in workers that take a whole node."""
        cluster = self._joined(jobs)
        small = [job for job in jobs if not job.config.fine_tuned]
        large = [job for job in jobs if job.config.fine_tuned]
        gpus = self.gpus_of(cluster, jobs)
        if small:
            each = self.cpus or max(job.config.trainer.threads or 1 for job in small)
            with self.hired(cluster, each, gpus, len(small)) as workers:
                self._run_small(cluster, workers, small, each)
        if large:
            self._run_large(cluster, large, gpus)

    def _run_groups(self, context: None, jobs: Sequence[Job]) -> None:
        """Do the jobs of several devices in workers that take a whole node, its GPUs included."""
        if jobs:
            cluster = self._joined(jobs)
            most = min((node.gpus for node in cluster.nodes() if node.gpus), default=0)
            self._run_large(cluster, jobs, self.gpus_of(cluster, jobs) and (self.gpus or most))

    def _joined(self, jobs: Sequence[Job]) -> Cluster:
        cluster = Cluster.joined(self.address)
        cluster.check(*folders_of(jobs, Path(jobs[0].folder).parent))
        return cluster

    def _run_large(self, cluster: Cluster, jobs: Sequence[Job], gpus: float) -> None:
        each = self.cpus or cluster.largest(gpus)
        alone = [
            replace(job, config=job.config.with_threads(each)) if job.config.trainer.on_one_device else job
            for job in jobs  # the processes of several devices divide the cores among themselves
        ]
        with self.hired(cluster, each, gpus, len(alone)) as workers:
            logger.warning("ray: %s, on the cluster at %s", shared_by(len(alone), len(workers), each), self.address)
            self._share(cluster, workers, [(job,) for job in alone])

    def gpus_of(self, cluster: Cluster, jobs: Sequence[Job]) -> float:
        """Return the number of GPUs of a worker."""
        if self.gpus is not None:
            return self.gpus
        wants = any(job.config.trainer.accelerator in ("auto", "gpu", "cuda") for job in jobs)
        return 1 if wants and any(node.gpus for node in cluster.nodes()) else 0

    @contextmanager
    def hired(self, cluster: Cluster, cpus: int, gpus: float, most: int) -> Iterator[list[RayWorker]]:
        """Yield workers that have begun to start, at most `most`, and end them. Raises UserError if they do not fit."""
        losses = Losses(self.lost)
        workers = [RayWorker(cluster, cpus, gpus, losses) for _ in range(min(cluster.room(cpus, gpus, self.workers), most))]
        try:
            for worker in workers:
                worker.begin()
            yield workers
        finally:
            end_all(workers)

    def _run_small(self, cluster: Cluster, workers: Sequence[RayWorker], jobs: Sequence[Job], each: int) -> None:
        warmed = self.warmed(workers[0], jobs)
        if warmed is None:
            raise UserError(_gone(cluster, len(jobs)))
        left, cuda = warmed
        if not left:
            return
        groups: dict[str, list[Job]] = {}
        for job in left:  # with CUDA the seeds of a setting are trained as one
            groups.setdefault(job.config.setting if cuda else job.folder, []).append(job)
        work = shared_by(len(left), len(workers), each)
        nodes = len(cluster.nodes())
        logger.warning("ray: %s, on %s of the cluster at %s", work, "1 node" if nodes == 1 else f"{nodes} nodes", self.address)
        self._share(cluster, workers, [tuple(group) for group in groups.values()])

    def _share(self, cluster: Cluster, workers: Sequence[RayWorker], groups: Sequence[tuple[Job, ...]]) -> None:
        """Do groups of jobs. Raises UserError if no node is left for some of them, or the first node is lost."""
        left = share_out(workers, [Task(perform_stacked, (group,), group) for group in groups], self.note)
        if left:
            end_all(workers)  # those of a lost cluster may still be at work
        for job in (job for task in left for job in task.jobs):
            if job.run.status.get("state") == "running":
                with suppress(UserError):
                    job.run.end(INTERRUPTED, "its machine was lost, and no other was left")
        if left:
            raise UserError(_gone(cluster, sum(len(task.jobs) for task in left)))


def _gone(cluster: Cluster, jobs: int) -> str:
    rest = "a job" if jobs == 1 else f"{jobs} jobs"
    if cluster.lost:
        return (
            f"the first node of the cluster at {cluster.address} is lost, and {rest} cannot be done without it: start a new "
            "cluster and type the same command, which does the rest"
        )
    return (
        f"no node of the cluster at {cluster.address} is left that takes {rest}: start one and type the same command, which does "
        "the rest"
    )


def _is_host(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16 and "/" not in host
