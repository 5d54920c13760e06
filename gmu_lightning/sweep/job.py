"""Perform one job: resolve the configuration that Hydra composed, train, and record the end in status.json.

In a sweep an error of one job leaves the other jobs untouched.
"""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from gmu_lightning.confidential import secret_in, secret_sentence, without_any
from gmu_lightning.config.hydra_versions import register_resolver
from gmu_lightning.config.identity import as_folder, run_slug
from gmu_lightning.config.resolve import resolve
from gmu_lightning.console import quiet
from gmu_lightning.files import digest, write_text
from gmu_lightning.machine import refusal
from gmu_lightning.metrics import main_scores
from gmu_lightning.movie import IncompatibleChoices, UserError
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run, TakenOver
from gmu_lightning.run_files.plain import Damaged
from gmu_lightning.signals import as_interruption
from gmu_lightning.sweep.rerun import KEY, again

if TYPE_CHECKING:
    from gmu_lightning.config.schema import RunConfig
    from gmu_lightning.experiment.build import DatasetCache
    from gmu_lightning.experiment.fast_loop import TrainedWeights
    from gmu_lightning.experiment.train import PreparedRun

logger = logging.getLogger(__name__)
Made = TypeVar("Made")
INTERRUPTED = "interrupted"  # the state of a run that Ctrl-C ended, and its reason


@dataclass(frozen=True)
class Job:
    """One run to be done. It can be pickled, so that a launcher can send it to another process.

    Attributes:
        config: typed and complete.
        overrides: as the user typed them.
        folder: of the run, absolute.
        sweep: name of the sweep's folder; None for a single run.
        retry: whether a sweep does the job again if it failed before.
        continues: folder of the run whose checkpoints are read; None for its own.
    """

    config: RunConfig
    overrides: Sequence[str]
    folder: str
    sweep: str | None
    retry: bool = False
    continues: str | None = None

    @cached_property
    def run(self) -> Run:
        """Return the run in the job's folder."""
        return Run(self.folder)


def perform(job: Job) -> None:
    """Train one job outside a sweep, from its last checkpoint if it has one. An error is written to status.json and raised again.

    For a run on several devices Lightning starts this command once more for each further device. These helpers train in a
    temporary folder, which is removed.

    Raises:
        UserError: another process is writing to the folder, or the folder holds a finished run.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        with tempfile.TemporaryDirectory() as scratch:
            quiet()
            helper = replace(job, folder=scratch, continues=job.folder)
            helper.run.begin(job.config.mapping, job.overrides)
            train_job(helper)
        return
    with job.run.held() as mine:
        if not mine:
            raise UserError(f"{job.folder} is being written by another process: choose another hydra.run.dir")
        job.run.begin(job.config.mapping, job.overrides)
        try:
            metrics = train_job(job)
        except BaseException as error:
            with suppress(UserError, OSError):  # the folder is gone, or its status is damaged: the error itself matters
                job.run.end(state_of(error), sentence_of(error))
            raise
        job.run.end("finished")
    print(f"{job.folder}: {_scores(metrics, 'test', ', ')}")


def perform_in_sweep(job: Job, cache: DatasetCache | None = None) -> str | None:
    """Train one job of a sweep, unless an equal job has ended or is running. An error is written to status.json, and printed.

    Args:
        cache: data and features that the process keeps from job to job; None keeps none.

    Returns:
        The reason why the job is skipped, which then leaves no file; None for any other job.
    """
    if not job.config.trainer.on_one_device:
        return _in_group(job)
    quiet()
    reason = why_skipped(job)
    if reason is None:
        with begun(job) as mine:
            if mine:
                ended(job, lambda: train_job(job, cache))
    return reason


def perform_stacked(jobs: Sequence[Job], cache: DatasetCache) -> dict[str, str]:
    """Train jobs as `perform_in_sweep` does. Jobs that differ only in their seed are trained as one stack if possible.

    Args:
        cache: data and features that the process keeps from job to job.

    Returns:
        {folder: reason} of the skipped jobs.
    """
    quiet()
    skipped: dict[str, str] = {}
    alike: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        alone = job.config.trainer.on_one_device
        reason = why_skipped(job) if alone else _in_group(job)
        if reason is not None:
            skipped[job.folder] = reason
        elif alone:
            alike[job.config.setting].append(job)
    for group in alike.values():
        _perform_alike(group, cache)
    return skipped


def _in_group(job: Job) -> str | None:
    from gmu_lightning.sweep.group import perform_in_group

    return perform_in_group(job)


def why_skipped(job: Job) -> str | None:
    """Return the reason why the choices of a job do not go together; None if they do, if it has finished, or on another error."""
    import gmu_lightning.lightning  # noqa: F401  # first, because it imports torch in less time
    from gmu_lightning.experiment.choices import check_choices

    with suppress(UserError):  # the job itself meets the error, and records it
        if job.run.status.get("state") != "finished":
            try:
                check_choices(job.config)
            except IncompatibleChoices as reason:
                return str(reason)
    return None


def _perform_alike(jobs: Sequence[Job], cache: DatasetCache) -> None:
    """Train jobs that differ only in their seed: together if they can be stacked, one after the other otherwise."""
    from gmu_lightning.experiment.fast_loop import incompatibility
    from gmu_lightning.experiment.train import complete, fit, open_run

    with ExitStack() as held:
        mine = [job for job in jobs if held.enter_context(begun(job))]
        tried = [(job, attempted(job, partial(open_run, job.config, job.run, cache))) for job in mine]
        prepared = [(job, run) for job, run in tried if run is not None]
        reason = incompatibility(prepared[0][1]) if prepared else None
        if prepared and reason is None:
            _train_together(prepared)
            return
        if len(prepared) > 1:
            logger.warning("one by one, since %s: %s", reason, ", ".join(job.run.folder.name for job, _ in prepared))
        for job, run in prepared:
            ended(job, partial(complete, run, job.sweep, fit))


def _train_together(prepared: Sequence[tuple[Job, PreparedRun]]) -> None:
    from gmu_lightning.experiment.environment import device_of
    from gmu_lightning.experiment.fast_loop import CachedFeatureTrainer, SeedStack, finish

    runs = [run for _, run in prepared]
    kind = CachedFeatureTrainer if len(runs) == 1 else SeedStack
    found: Sequence[TrainedWeights | UserError] | None = None
    with recorded(*(job for job, _ in prepared)):
        found = kind(runs, device_of(runs[0].config.trainer)).fit()
    if found is None:  # the fit failed, and every job of it is recorded
        return
    for (job, run), trained in zip(prepared, found, strict=True):
        if isinstance(trained, UserError):
            end_unfinished(job.run, trained)
        else:
            ended(job, partial(finish, run, trained, job.sweep))


@contextmanager
def begun(job: Job) -> Iterator[bool]:
    """Hold a job's folder and begin its run. Yield False if an equal job is running, or has ended and is not to be done again."""
    run = job.run
    with run.held() as mine:
        try:
            done = not mine or done_before(job)
        except Damaged as error:  # its files stay as they are; the end of the sweep counts it as failed
            logger.warning("%s  FAILED: %s", run.folder.name, error)
            done = True
        if done:
            yield False
            return
        run.begin(job.config.mapping, job.overrides)
        yield True


def ended(job: Job, work: Callable[[], dict[str, Any]]) -> None:
    """Run `work()`, which returns the metrics, as the last step of a job. Write the end to status.json and print one line."""
    run = job.run

    def ending() -> dict[str, Any]:
        metrics = work()
        run.end("finished")  # raises if another process has taken the run over
        return metrics

    metrics = attempted(job, ending)
    if metrics is not None:
        warned = " ".join(f"[{w.split(':')[0]}]" for w in run.status["warnings"])
        split = "val" if is_trial(run) else "test"
        scores = _scores(metrics, split, "  ")
        print(f"{run.folder.name}  {scores}  {metrics['seconds/total']:.1f} s {warned}".rstrip(), flush=True)


def _scores(metrics: Mapping[str, Any], split: str, between: str) -> str:
    """Return the two main scores of a split as text; those of val if the split has no labels."""
    split = split if f"{split}/f1_micro" in metrics else "val"
    return main_scores(split, {key.removeprefix(f"{split}/"): value for key, value in metrics.items()}, between)


def attempted(job: Job, work: Callable[[], Made]) -> Made | None:
    """Run `work()` and return its result. On failure, write the error to status.json and return None."""
    with recorded(job):
        return work()
    return None


@contextmanager
def recorded(*jobs: Job) -> Iterator[None]:
    """Write an error within the context to the status.json of the jobs, and go on after the context unless a signal raised it."""
    try:
        with as_interruption():
            yield
    except KeyboardInterrupt:
        for job in jobs:
            with suppress(UserError, OSError):
                job.run.end(INTERRUPTED, INTERRUPTED)
        raise
    except (Exception, SystemExit) as error:
        for job in jobs:
            end_unfinished(job.run, error)


def done_before(job: Job) -> bool:
    """Return whether the folder holds this run, finished, or failed and not to be done again.

    Raises UserError if a finished run was made from another data.root.
    """
    status = job.run.status
    if status.get("state") != "finished":
        return failed_before(job)
    before, now = (job.run.config.get("data") or {}).get("root"), job.config.data.root
    if before != now:
        raise UserError(f"{job.folder} was made from {before}, not from {now}: give the sweep another hydra.sweep.dir")
    return status["identity"] == job.config.identity


def failed_before(job: Job) -> bool:
    """Return whether the job failed in an earlier sweep and is not to be done again."""
    return not job.retry and job.run.status.get("state") == "failed"


def end_unfinished(run: Run, error: BaseException) -> None:
    """Record a job of a sweep as skipped if its parts do not go together, and as failed otherwise.

    If another process has taken the run over, only log the error.
    """
    state = state_of(error)
    if isinstance(error, TakenOver):
        logger.warning("%s", error)
        return
    sentence = sentence_of(error)
    with suppress(UserError, OSError):  # the folder is gone, or the disk is full
        if not isinstance(error, UserError) and refusal(error) is None:
            write_text(run / "error.txt", without_any("".join(traceback.format_exception(error))))
        run.end(state, sentence)
    if state == "failed":  # skipped jobs are listed at the end of the sweep
        logger.warning("%s  FAILED: %s", run.folder.name, sentence)


def end_lost(job: Job, why: str) -> None:
    """Record a job whose process was lost as failed, for the reason `why`, unless it has ended or another process does it."""
    with job.run.held() as mine:
        if not mine or job.run.status.get("state") not in (None, "running"):
            return
        if not job.run.status:
            job.run.begin(job.config.mapping, job.overrides)
        end_unfinished(job.run, UserError(why))


def state_of(error: BaseException) -> str:
    """Return the state of a run that this error ended: `skipped`, `interrupted` or `failed`."""
    if isinstance(error, IncompatibleChoices):
        return "skipped"
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else "failed"


def sentence_of(error: BaseException) -> str:
    """Return one sentence on an error: that of a UserError or of the machine, and for any other error its class and text."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if refused := refusal(error):
        return refused
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@as_interruption()
def train_job(job: Job, cache: DatasetCache | None = None) -> dict[str, Any]:
    """Train a job whose run has begun, and return the content of metrics.json; `cache` is that of `perform_in_sweep`."""
    import gmu_lightning.lightning  # noqa: F401  # first, because it imports torch in less time
    from gmu_lightning.experiment.train import train

    return train(job.config, job.run, job.sweep, cache, Path(job.continues) if job.continues else None)


def resolved(config: DictConfig, hydra: DictConfig) -> RunConfig:
    """Return the typed configuration of a composed one, its own paths absolute. Raises UserError."""
    from gmu_lightning.config.schema import RunConfig  # now: a look at the configuration does without pydantic

    config_dir = config_dir_in(hydra)
    composed, choices = plain(config), choices_in(hydra)
    if composed.get(KEY):
        composed, choices = again(composed, choices, hydra.overrides.task, folder=Path(hydra.runtime.cwd), config_dir=config_dir)
    found = resolve({**composed, **({"config_dir": config_dir} if config_dir else {})}, choices)
    data, store, folder = dict(found["data"]), dict(found["store"]), Path(hydra.runtime.cwd)
    for node, key in ((data, "root"), (store, "dir")):
        if node.get(key) is not None:
            node[key] = str((folder / Path(str(node[key])).expanduser()).absolute())
    if secret := secret_in(found):
        raise UserError(secret_sentence(secret))
    return RunConfig.of({**found, "data": data, "store": store})


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as resolved containers, without Hydra's node."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return cast("dict[str, Any]", OmegaConf.to_container(kept, resolve=True))


def choices_in(hydra: DictConfig) -> dict[str, str | None]:
    """Return {config group: choice} of Hydra's node."""
    return cast("dict[str, str | None]", OmegaConf.to_container(hydra.runtime.choices))


def config_dir_in(hydra: DictConfig) -> str | None:
    """Return the absolute folder of `--config-dir` in Hydra's node, or the first of a typed `hydra.searchpath`; None without."""
    sources = hydra.runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    own += [source.path for source in sources if "command-line" in source.provider and source.schema == "file"]
    return next(iter(own), None)


def register_resolvers() -> None:
    """Register `${words:}` and `${identity:}`, which name run folders, including those of invalid configurations."""

    def folder_words(*, _root_: DictConfig) -> str:
        if "predictions" in _root_:  # of the command adopt
            return as_folder(f"{_root_.get('name')}-{_root_.get('modalities')}")
        return run_slug(_root_, _root_.hydra.runtime.choices)

    def folder_identity(*, _root_: DictConfig) -> str:
        try:
            return resolved(_root_, _root_.hydra).identity
        except UserError:
            return digest(list(_root_.hydra.overrides.task))[:12]

    register_resolver("words", folder_words)
    register_resolver("identity", folder_identity)
