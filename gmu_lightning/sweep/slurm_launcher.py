"""The launcher of Slurm clusters: hydra/launcher=slurm. It submits an array of workers that share the jobs, and returns."""

from __future__ import annotations

import logging
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from gmu_lightning.config.checks import check_arguments
from gmu_lightning.config.ranges import Few, FromZero, Positive
from gmu_lightning.files import write_text
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import Job, why_skipped
from gmu_lightning.sweep.launcher import Parallel
from gmu_lightning.sweep.slurm_plan import FOLDER, Plan
from gmu_lightning.sweep.slurm_worker import MARGIN

logger = logging.getLogger(__name__)
TYPED = "hydra.sweep.dir="


class Slurm(Parallel):
    """Submits an array of workers. Each does the jobs that are free, as `Stacked` does them on one machine.

    The sweep, the data and the store have to lie on a disk that all nodes share. A worker that is preempted, or at its time
    limit, saves, leaves its jobs to the others, and returns to the queue.

    Args:
        partition: of the cluster; None for its default.
        hours: time limit of a worker, at least five minutes.
        workers: size of the array, at most one per job.
        cpus, gpus: of a worker.
        memory: of a worker in GB; None for the cluster's default.
        account: that pays; None for the user's default.
        extra: further options of sbatch, {name: value}, with True for an option without a value.
        setup: lines of shell before the worker.
        requeues: how often a worker returns to the queue.
        lost: how often a job is repeated whose worker was killed.

    Raises:
        UserError: an argument has another value, or submitit is not installed.
    """

    threads = 1

    def __init__(
        self,
        partition: str | None = None,
        hours: Positive = 4.0,
        workers: Few = 4,
        cpus: Few = 1,
        gpus: FromZero = 0,
        memory: Positive | None = None,
        account: str | None = None,
        extra: Mapping[str, str | int | float | bool] | None = None,
        setup: list[str] | None = None,
        requeues: FromZero = 100,
        lost: FromZero = 2,
    ):
        given: dict[str, Any] = {
            **{"partition": partition, "hours": hours, "workers": workers, "cpus": cpus, "gpus": gpus, "memory": memory},
            **{"account": account, "extra": _plain(extra or {}), "setup": _plain(setup or [])},
            **{"requeues": requeues, "lost": lost},
        }
        check_arguments(Slurm, given, "hydra.launcher")
        try:
            metadata.version("submitit")
        except metadata.PackageNotFoundError:
            raise UserError("hydra/launcher=slurm needs the package submitit: pip install 'gmu-lightning[slurm]'") from None
        self.partition, self.hours, self.workers, self.cpus, self.gpus = partition, hours, workers, cpus, gpus
        self.memory, self.account, self.requeues, self.lost = memory, account, requeues, lost
        self.extra: dict[str, Any] = given["extra"]
        self.lines: list[str] = given["setup"]

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Prepare for the jobs. Hydra calls it. Raises UserError for a search, which waits for scores."""
        if config.hydra.runtime.choices.get("sweep") == "search":
            raise UserError(
                "sweep=search waits for the scores of its jobs, and hydra/launcher=slurm returns before they begin: choose "
                "hydra/launcher=stacked, inside an allocation"
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def context(self) -> None:
        """Return None: Slurm starts the processes."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs of these overrides; with `check`, print the file for sbatch. Hydra calls it."""
        returned = super().launch(job_overrides, initial_job_idx)
        if self.config.check:
            named = [word.removeprefix(TYPED) for word in self.session.typed.values() if word.startswith(TYPED)]
            sweep = Path(named[-1]).absolute() if named else Path("SWEEP")
            jobs = len({job.folder for job in self.session.checked})
            print(self.script(sweep, sweep / FOLDER / "PLAN.json", jobs), flush=True)
        return returned

    def complete(self, context: None, jobs: Sequence[Job]) -> None:
        """Submit workers for the jobs that are free, and leave the end of the sweep to them."""
        jobs = [job for job in jobs if not self._is_skipped(job)]
        held = [job for job in jobs if job.run.is_held]
        if held:
            logger.warning("slurm: %s being done already", "1 job is" if len(held) == 1 else f"{len(held)} jobs are")
        free = [job for job in jobs if job not in held]
        if not free:
            logger.warning("slurm: no job is left to submit")
            return
        sweep = Path(free[0].folder).parent
        array, workers = self.submit(free, sweep), min(self.workers, len(free))
        work = f"{'1 job' if len(free) == 1 else f'{len(free)} jobs'}, {'1 worker' if workers == 1 else f'{workers} workers'}"
        print(f"array {array}: {work}; logs in {sweep / FOLDER}; scancel {array} ends it", flush=True)
        own = f"--config-dir {shlex.quote(self.session.config_dir)} " if self.session.config_dir else ""
        print(f"python -m gmu_lightning.compare {own}{shlex.quote(f'runs={sweep}')} reports at any time", flush=True)
        self.session.folder = None  # the last worker writes the sweep's files

    def submit(self, jobs: Sequence[Job], sweep: Path) -> str:
        """Submit workers for jobs, and return the number of the array. Raises UserError."""
        tokens = {job.folder: str(job.run.status.get("token") or "") for job in jobs if job.run.status.get("state") == "failed"}
        plan = Plan(self.session.started, self.lost, tuple(jobs), tokens, list(self.session.skipped.values()))
        path = plan.write(sweep)
        Plan.read(path, self.session.config_dir)  # refuse here, before the workers do
        script = path.with_suffix(".sh")
        write_text(script, self.script(sweep, path, len(jobs)))
        try:
            done = subprocess.run(["sbatch", "--parsable", script], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise UserError(
                "hydra/launcher=slurm finds no sbatch on this machine: type the command on a login node of the cluster, or "
                "choose hydra/launcher=stacked"
            ) from None
        array = re.match(r"\d+", done.stdout)
        if done.returncode or array is None:
            why = " ".join((done.stderr or done.stdout).split())
            raise UserError(f"sbatch refused {script} ({why}): correct hydra.launcher's settings, and look at it with check=true")
        return array[0]

    def script(self, sweep: Path, plan: Path, jobs: int) -> str:
        """Return the file for sbatch.

        Args:
            sweep: its folder.
            plan: file of the plan.
            jobs: number of jobs.

        Raises:
            UserError: submitit does not take one of the settings.
        """
        from submitit.slurm.slurm import _make_sbatch_string

        minutes = max(5, math.ceil(self.hours * 60))
        words = [sys.executable, "-u", "-m", "gmu_lightning.sweep.slurm_worker", str(plan)]
        words += [f"--cpus={self.cpus}", f"--requeues={self.requeues}", f"--minutes={minutes}"]
        words += [f"--config-dir={self.session.config_dir}"] if self.session.config_dir else []
        return _make_sbatch_string(
            command=shlex.join(words),
            folder=sweep / FOLDER,
            job_name=f"gmu-{sweep.name}",
            partition=self.partition,
            time=minutes,
            cpus_per_task=self.cpus,
            gpus_per_node=self.gpus or None,
            mem=None if self.memory is None else f"{math.ceil(self.memory * 1024)}M",
            account=self.account,
            setup=self.lines or None,
            signal_delay_s=MARGIN,
            wckey=None,
            map_count=min(self.workers, max(1, jobs)),
            additional_parameters={"requeue": True, **self.extra},
            srun_args=[f"--cpus-per-task={self.cpus}"],  # some versions of srun take it from nowhere else
        )

    def _is_skipped(self, job: Job) -> bool:
        reason = why_skipped(job)
        if reason is not None:
            self.session.skip(job.folder, job.overrides, reason)
        return reason is not None


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
