"""State of one command: the overrides typed, the jobs of a check, and the sweep that is running."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from gmu_lightning.console import loud
from gmu_lightning.files import now
from gmu_lightning.movie import IncompatibleChoices, UserError
from gmu_lightning.parallel import duration
from gmu_lightning.report.settings import few_seeds, is_seed, jobs_of, without_folder
from gmu_lightning.run import Run, runs_under
from gmu_lightning.sweep.job import Job, choices_in, end_unfinished, plain, resolved
from gmu_lightning.sweep.workers import done_apart

if TYPE_CHECKING:
    from gmu_lightning.experiment.build import DatasetCache

logger = logging.getLogger(__name__)
EVERY = 10.0  # seconds between two lines of progress


class Stopped(BaseException):
    """Carries an error past Hydra, which would print a line of its own before any `Exception` of a job."""

    def __init__(self, error: Exception):
        self.error = error


@dataclass
class Session:
    """State that the task, the launcher and the sweeper of one command share.

    Attributes:
        typed: {override as Hydra reads it: as the user typed it}, where the two differ.
        checked: the jobs that `check=true` lists.
        refused: (name, reason) of jobs that it lists and whose configuration is invalid.
        added: overrides that `rerun=RUN` stands for, besides itself.
        movie: {KEY: text} of the arguments `movie.KEY=TEXT`.
        config_dir: absolute folder of the user's own choices and classes; None without `--config-dir`.
        folder: the folder of the running sweep; None outside a sweep and in a check.
        started: when that sweep began.
        planned: (folder, overrides) of its jobs; the folder is None until the job's turn where it is not known before.
        skipped: {folder: (overrides, reason)} of its jobs whose choices do not go together. They leave no folder.
        done: number of planned jobs that have ended.
        failed_before: folders of jobs that were asked for, failed in an earlier command, and are not done again.
        processes: `multiprocessing` context of the sweep's workers, which have imported what a report needs; None without.
    """

    typed: Mapping[str, str] = field(default_factory=dict)
    checked: list[Job] = field(default_factory=list)
    refused: list[tuple[str, UserError]] = field(default_factory=list)
    added: Sequence[str] = ()
    movie: dict[str, str] = field(default_factory=dict)
    config_dir: str | None = None
    folder: Path | None = None
    started: str = ""
    planned: list[tuple[str | None, Sequence[str]]] = field(default_factory=list)
    skipped: dict[str, tuple[Sequence[str], str]] = field(default_factory=dict)
    done: int = 0
    failed_before: list[str] = field(default_factory=list)
    processes: Any = None
    _cache: Any = None
    _begun: float = 0.0  # when the first planned job began; this and the next are seconds of the monotonic clock
    _shown: float = 0.0  # when progress was shown last

    def begin_sweep(self, config: DictConfig) -> None:
        """Remember the folder and the start of the sweep, unless it has begun or `check` is true."""
        if not config.check and self.folder is None:
            self.folder, self.started = Path(config.hydra.sweep.dir).absolute(), now()

    def plan(self, jobs: Iterable[tuple[str | None, Sequence[str]]]) -> None:
        """Remember the jobs that are about to be done, in place of earlier ones."""
        self.planned, self.done = list(jobs), 0
        self._begun = self._shown = time.monotonic()

    def drop_skipped(self) -> None:
        """Forget the planned jobs that are skipped, and begin the clock of the others anew."""
        self.plan(job for job in self.planned if job[0] not in self.skipped)

    def caution(self, jobs: Sequence[Sequence[str]]) -> None:
        """Warn if a setting of these jobs will have fewer than three seeds, finished runs in the sweep's folder included.

        Settings that an earlier command skipped are left out.

        Args:
            jobs: their overrides.
        """
        seeds: dict[tuple[str, ...], set[str]] = {}
        for overrides in jobs:
            setting, seed = _setting_and_seed(self.as_typed(overrides))
            seeds.setdefault(setting, set()).add(seed)
        if self.folder is None or few_seeds(seeds.values()) is None:
            return
        for run in runs_under(self.folder):
            with suppress(UserError):  # a damaged run is named at the end of the sweep
                setting, seed = _setting_and_seed(run.overrides)
                if setting in seeds and run.status.get("state") == "finished":
                    seeds[setting].add(seed)
        for job in without_folder(jobs_of(self.folder)):
            seeds.pop(_setting_and_seed(job["overrides"])[0], None)
        if words := few_seeds(seeds.values()):
            logger.warning("%s", words)

    def ended(self, jobs: int = 1) -> None:
        """Count jobs as ended, skipped ones excepted. Show progress and the remaining time unless it was shown just before."""
        self.done += jobs
        moment = time.monotonic()
        total = sum(folder not in self.skipped for folder, _ in self.planned)
        if 0 < self.done < total and moment - self._shown >= EVERY:
            self._shown = moment
            left = (moment - self._begun) / self.done * (total - self.done)
            logger.warning("%d of %d jobs, about %s left", self.done, total, duration(left))

    def skip(self, folder: Path | str, overrides: Sequence[str], reason: str) -> None:
        """Note a job of the sweep whose choices do not go together, and remove its folder if that is empty.

        Args:
            folder: that the job would have had.
            overrides: as typed.
        """
        self.skipped[str(Path(folder).absolute())] = (overrides, reason)
        with suppress(OSError):  # Hydra may have created it
            Path(folder).rmdir()

    def reached(self, folder: Path) -> None:
        """Note the folder of the next planned job whose folder was not known."""
        n = next((n for n, (known, _) in enumerate(self.planned) if known is None), None)
        if n is not None:
            self.planned[n] = (str(folder.absolute()), self.planned[n][1])

    def waiting(self) -> list[Sequence[str]]:
        """Return the overrides of the planned jobs that never began."""
        return [
            overrides
            for folder, overrides in self.planned
            if folder is None or (folder not in self.skipped and not (Path(folder) / "status.json").exists())
        ]

    def end_sweep(self, interrupted: bool) -> bool:
        """Write the files of the running sweep. Return whether one of its jobs failed; False if no sweep is running."""
        if self.folder is None:
            return False
        folder, self.folder = self.folder, None
        skipped = [job for path, job in self.skipped.items() if Path(path).parent == folder]  # trials of a search lie deeper
        asked = [path for path, _ in self.planned if path is not None] + self.failed_before
        ending = (folder, self.started, interrupted, self.waiting(), self.config_dir, skipped, asked)
        failed = None
        if self.processes is not None and not interrupted:
            sys.stdout.flush()  # before the other process prints
            failed = done_apart(self.processes, _write_apart, *ending)
        return (_write(*ending) if failed is None else failed) > 0

    @property
    def cache(self) -> DatasetCache:
        """The data and features that this process keeps from job to job."""
        import gmu_lightning.lightning  # noqa: F401  # first, because it imports torch in less time
        from gmu_lightning.experiment.build import DatasetCache

        if self._cache is None:
            self._cache = DatasetCache()
        return self._cache

    def job_of(self, config: DictConfig, hydra: DictConfig, folder: Path, sweep: str | None) -> Job:
        """Return the job of a configuration that Hydra composed.

        Args:
            hydra: the node of that name, which a task's configuration lacks.
            sweep: the name of the sweep's folder; None for a run alone.

        Raises:
            UserError: it is invalid.
        """
        overrides = self.as_typed(hydra.overrides.task)
        return Job(resolved(config, hydra), overrides, str(folder.absolute()), sweep, asks_to_retry(config.retry))

    def refuse(self, config: DictConfig, hydra: DictConfig, folder: Path, error: UserError) -> None:
        """Record a job of a sweep whose configuration is invalid; with `check`, only note it."""
        if config.check:
            self.refused.append((folder.name, error))
            return
        if isinstance(error, IncompatibleChoices):
            self.skip(folder, self.as_typed(hydra.overrides.task), str(error))
            return
        chosen = {group: choice for group, choice in choices_in(hydra).items() if choice and not group.startswith("hydra/")}
        run = Run(folder)
        run.begin({**plain(config), "choices": chosen}, self.as_typed(hydra.overrides.task))
        end_unfinished(run, error)

    def as_typed(self, overrides: Iterable[str]) -> list[str]:
        """Return overrides as the user typed them, in the same order; others stay as they are.

        `retry` and the `added` ones are left out.
        """
        kept = [override for override in overrides if override not in self.added and not override.startswith("retry=")]
        return [self.typed.get(override, override) for override in kept]


def _write(*ending: Any) -> int:
    """Write the files of a sweep, and return the number of failed jobs; the arguments are those of `write_sweep`."""
    from gmu_lightning.sweep.files import write_sweep

    return write_sweep(*ending)


def _write_apart(*ending: Any) -> int | None:
    """Do as `_write` in a worker, which passes its cache too. Return None after an error, which `_write` meets again."""
    loud()
    try:
        return _write(*ending[:-1])
    except Exception:
        return None


def asks_to_retry(value: Any) -> bool:
    """Return whether failed jobs are done again, by the setting `retry`. Raises UserError for another value."""
    if value not in (None, "failed"):
        raise UserError(f"retry={value} is none of failed and null: retry=failed runs the failed jobs of a sweep again")
    return value is not None


def _setting_and_seed(overrides: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Return the overrides without the seed, sorted, and the override of the seed; empty if there is none."""
    words = list(overrides)
    return tuple(sorted(word for word in words if not is_seed(word))), next(filter(is_seed, words), "")


class Command:
    """The function that Hydra calls with each composed configuration.

    Args:
        task: does the work of one configuration.
        name: of the command.
        session: shared with launchers and sweepers, which Hydra hands this function.
    """

    def __init__(self, task: Callable[[DictConfig, Session], None], name: str, session: Session):
        self.task, self.session = task, session
        self.__module__ = f"gmu_lightning.{name}"  # Hydra names the job after it

    def __call__(self, config: DictConfig) -> Any:
        """Do the task. Raises Stopped in place of any Exception."""
        try:
            self.task(config, self.session)
        except Exception as error:
            raise Stopped(error) from error
