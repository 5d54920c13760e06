"""One job: a run and how it ended. In a sweep no job costs the others anything; alone an error is the command's."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gmu_lightning.data.progress import QUIET
from gmu_lightning.files import write_text
from gmu_lightning.movie import Senseless, UserError
from gmu_lightning.report.search import is_trial
from gmu_lightning.run import Run, identity
from gmu_lightning.run_files.content import Damaged

Made = TypeVar("Made")
INTERRUPTED = "interrupted"  # the state of a run that Ctrl-C ended, and its reason


@dataclass(frozen=True)
class Job:
    """What a launcher hands to whoever does the work; plain, so that it travels to another process."""

    config: Mapping[str, Any]  # settled
    overrides: Sequence[str]  # as typed
    folder: str
    sweep: str | None  # the sweep's folder name; None for a run alone

    @property
    def run(self) -> Run:
        """Its folder."""
        return Run(self.folder)


def perform(job: Job) -> None:
    """Train one job alone: an error ends the command, after the run's status says why.

    Where a run takes several devices, Lightning starts this command again for each further one; those help, and write nowhere.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ[QUIET] = "1"
            helper = replace(job, folder=scratch)
            helper.run.begin(job.config, job.overrides)
            _train(helper)
        return
    with job.run.held() as mine:
        if not mine:
            raise UserError(f"{job.folder} is being written by another process: choose another hydra.run.dir")
        job.run.begin(job.config, job.overrides)
        try:
            metrics = _train(job)
        except BaseException as error:
            job.run.end(state_of(error), sentence_of(error))
            raise
        job.run.end("finished")
    print(f"{job.folder}: {_scores(metrics, 'test', ', ')}")


def perform_in_sweep(job: Job) -> None:
    """Train one job of many: whatever happens is in its status.json, and one line on the console.

    A job that an equal one did, or is doing, is not done again.
    """
    os.environ[QUIET] = "1"
    with begun(job) as mine:
        if mine:
            ended(job, lambda: _train(job))


@contextmanager
def begun(job: Job) -> Iterator[bool]:
    """Hold a job's folder and begin its run; False where an equal job did it, or is doing it."""
    run = job.run
    with run.held() as mine:
        try:
            done = not mine or done_before(job)
        except Damaged as error:  # nothing is written over it; the sweep's end counts it as failed
            print(f"{run.folder.name}  FAILED: {error}", file=sys.stderr, flush=True)
            done = True
        if done:
            yield False
            return
        run.begin(job.config, job.overrides)
        yield True


def ended(job: Job, work: Callable[[], dict[str, Any]]) -> None:
    """The last of a begun job's work, which gives its metrics; how that ended is in status.json and on the console."""
    run = job.run
    metrics = attempted(job, work)
    if metrics is not None:
        run.end("finished")
        warned = " ".join(f"[{w.split(':')[0]}]" for w in run.status["warnings"])
        split = "val" if is_trial(run) else "test"
        scores = _scores(metrics, split, "  ")
        print(f"{run.folder.name}  {scores}  {metrics['seconds/total']:.1f} s {warned}".rstrip(), flush=True)


def _scores(metrics: Mapping[str, Any], split: str, between: str) -> str:
    """The two main scores of a split; those of val where the split has no labels."""
    split = split if f"{split}/f1_micro" in metrics else "val"
    f1, ap = metrics[f"{split}/f1_micro"], metrics[f"{split}/ap_micro"]
    return f"{split} micro F1 {f1:.4f}{between}micro AP {ap:.4f}"


def attempted(job: Job, work: Callable[[], Made]) -> Made | None:
    """What some of a begun job's work made; None where it failed, which is in status.json then."""
    try:
        return work()
    except KeyboardInterrupt:
        job.run.end(INTERRUPTED, INTERRUPTED)
        raise
    except (Exception, SystemExit) as error:
        end_unfinished(job.run, error)
        return None


def done_before(job: Job) -> bool:
    """Whether the folder holds this very run, finished. Raises UserError where it was made from other data."""
    status = job.run.status
    if status.get("state") != "finished":
        return False
    before, now = (job.run.config.get("data") or {}).get("root"), job.config["data"].get("root")
    if before != now:
        raise UserError(f"{job.folder} was made from {before}, not from {now}: give the sweep another hydra.sweep.dir")
    return status["identity"] == identity(job.config)


def record_failure(config: Mapping[str, Any], overrides: Sequence[str], folder: Path, error: BaseException) -> None:
    """A job of a sweep that could not even begin."""
    run = Run(folder)
    run.begin(config, overrides)
    end_unfinished(run, error)


def end_unfinished(run: Run, error: BaseException) -> None:
    """A job of a sweep that did not finish: skipped where its parts do not go together, failed otherwise."""
    state = state_of(error)
    sentence = sentence_of(error)
    if not isinstance(error, UserError):
        write_text(run / "error.txt", "".join(traceback.format_exception(error)))
    run.end(state, sentence)
    if state == "failed":  # the sweep's end says once what was skipped
        print(f"{run.folder.name}  FAILED: {sentence}", file=sys.stderr, flush=True)


def state_of(error: BaseException) -> str:
    """Return the state of a run that this error ended: `skipped`, `interrupted` or `failed`."""
    if isinstance(error, Senseless):
        return "skipped"
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else "failed"


def sentence_of(error: BaseException) -> str:
    """One sentence: a user's mistake as it says itself, anything else with its kind."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _train(job: Job) -> dict[str, Any]:
    import gmu_lightning.lightning  # noqa: F401  # first, because it imports torch in less time
    from gmu_lightning.experiment.train import train

    return train(job.config, job.run, job.sweep)


def absolute(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with its own paths made absolute, so that it means the same from any folder."""
    data, store = dict(config["data"]), dict(config["store"])
    for node, key in ((data, "root"), (store, "dir")):
        if node.get(key) is not None:
            node[key] = str((folder / Path(str(node[key])).expanduser()).absolute())
    return {**config, "data": data, "store": store}
