"""From Hydra's composed configuration to a job, and the functions that the commands hand to Hydra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gmu_lightning.experiment.settle import settle, words
from gmu_lightning.files import digest
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run, identity
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.job import Job, absolute, perform, perform_in_sweep, record_failure
from gmu_lightning.sweep.plan import Plans

Task = Callable[[DictConfig], None]
TYPED: dict[str, str] = {}  # what was quoted for Hydra's grammar -> as it was typed


class Stopped(BaseException):
    """Carries an error past Hydra, which would print a line of its own before any `Exception` of a job."""

    def __init__(self, error: Exception):
        self.error = error


def past_hydra(task: Task) -> Task:
    """Return the task, whose errors `command_line.call` receives as `Stopped`."""

    @wraps(task)
    def run(config: DictConfig) -> None:
        try:
            task(config)
        except Exception as error:
            raise Stopped(error) from error

    return run


def train(config: DictConfig) -> None:
    """The task of `train`: one run, or one job of a sweep."""
    hydra = _hydra()
    if hydra.mode == RunMode.RUN:
        if hydra.runtime.choices.get("sweep") == "search":
            raise UserError("sweep=search trains many jobs, so it needs -m: python -m gmu_lightning.train -m sweep=search ...")
        job = job_of(config, hydra, hydra.run.dir, None)
    else:
        sweep = Path(hydra.sweep.dir)
        SweepFiles.reached(sweep / hydra.sweep.subdir)
        try:
            job = one_device(job_of(config, hydra, sweep / hydra.sweep.subdir, sweep.name))
        except UserError as error:
            refuse(config, hydra, sweep / hydra.sweep.subdir, error)
            return
    if config.check:
        Plans.add(job, alone=hydra.mode == RunMode.RUN)
    elif hydra.mode == RunMode.RUN:
        perform(job)
    else:
        perform_in_sweep(job)


def refuse(config: DictConfig, hydra: DictConfig, folder: Path, error: UserError) -> None:
    """Record a job of a sweep that cannot begin; a check only lists it."""
    if config.check:
        Plans.refused.append((folder.name, error))
    else:
        record_failure(unsettled(config, hydra), overrides_of(hydra), folder, error)


def one_device(job: Job) -> Job:
    """The job, which may take one device: Lightning would start the whole sweep again for each further one. Raises UserError."""
    devices = job.config["trainer"]["devices"]
    if devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1):
        raise UserError(
            f"trainer.devices={devices} in a sweep: a job of a sweep takes one device; leave it at 1 and choose "
            "hydra/launcher=processes, whose jobs take the devices in turn"
        )
    return job


def prepare(config: DictConfig) -> None:
    """The task of `prepare`."""
    hydra = _hydra()
    ready = settled(config, hydra)
    from gmu_lightning.experiment.prepare import prepare as prepare_data

    prepare_data(ready, Path(hydra.run.dir).absolute())


def evaluate(config: DictConfig) -> None:
    """The task of `evaluate`."""
    from gmu_lightning.data.store import Store
    from gmu_lightning.experiment.evaluate import evaluate as evaluate_run
    from gmu_lightning.experiment.robustness import seed_of_draw

    seed = seed_of_draw(config.robustness, config.robustness_seed)
    run = Run(str(config.run))
    store = Store(config.store.dir or _store_of(run), max_gb=config.store.max_gb)
    evaluate_run(run, str(config.split), config.data.root, str(config.threshold), store, seed, config.encode.backend)


def _store_of(run: Run) -> str:
    """Where the run found what it had prepared and encoded; the default folder where that is gone."""
    theirs = str((run.config.get("store") or {}).get("dir", ""))
    return theirs if theirs and Path(theirs).is_dir() else "outputs/store"


def compare(config: DictConfig) -> None:
    """The task of `compare`."""
    from gmu_lightning.report.found import left_in, readable_runs_in
    from gmu_lightning.report.markdown import markdown
    from gmu_lightning.sweep.files import write_board
    from gmu_lightning.sweep.reports import write_comparison

    typed = str(config.runs or "")
    folders = [typed] if Path(typed).exists() and typed else typed.split(",")
    if "" in folders:
        raise UserError(f"runs={typed} names no folder: give the folder of a run or a sweep, or several with commas")
    paths = [Path(folder).expanduser() for folder in folders]
    runs, damaged = readable_runs_in(paths)
    left = left_in(paths)
    for path, why in left:
        print(f"left out, for {why}: {path}", file=sys.stderr)
    for _, why in damaged:
        print(f"left out: {why}", file=sys.stderr)
    left += damaged
    if config.output and (Path(config.output) / "config.yaml").exists():
        raise UserError(f"output={config.output} is the folder of a run, which keeps its own files: give another folder")
    folder = Path(config.output or f"outputs/compare/{datetime.now(UTC).strftime('%Y-%m-%dT%H-%M-%S.%f')}")
    against = None if config.against is None else str(config.against)
    comparison = write_comparison(runs, folder, str(config.metric), against, left)
    write_board(runs, folder)
    print(markdown(comparison))
    print("\n".join(str(folder / name) for name in ("comparison.json", "leaderboard.tex", "report.html")))


def dashboard(config: DictConfig) -> None:
    """The task of `dashboard`."""
    from gmu_lightning.sweep.dashboards import write_dashboard

    folder = Path(str(config.runs)).expanduser()
    output = Path(config.output).expanduser() if config.output else folder
    write_dashboard(folder, output, str(config.metric), str(config.mode), config.entity, config.project)


def job_of(config: DictConfig, hydra: DictConfig, folder: str | Path, sweep: str | None) -> Job:
    """The job of a composed configuration. Raises UserError where it cannot be settled."""
    return Job(settled(config, hydra), overrides_of(hydra), str(Path(folder).absolute()), sweep)


def overrides_of(hydra: DictConfig) -> list[str]:
    """The overrides as the user typed them."""
    return [TYPED.get(override, override) for override in hydra.overrides.task]


def settled(config: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """The settled configuration, its paths absolute."""
    return absolute(settle(plain(config), _choices(hydra)), Path(hydra.runtime.cwd))


def unsettled(config: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """What was asked for, where it cannot be settled."""
    return {
        **plain(config),
        "choices": {g: choice for g, choice in _choices(hydra).items() if choice and not g.startswith("hydra/")},
    }


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolved containers, without Hydra's node."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return cast("dict[str, Any]", OmegaConf.to_container(kept, resolve=True))


def _choices(hydra: DictConfig) -> dict[str, str | None]:
    return cast("dict[str, str | None]", OmegaConf.to_container(hydra.runtime.choices))


def _hydra() -> DictConfig:
    return cast(DictConfig, HydraConfig.get())


def register_resolvers() -> None:
    """`${words:}` and `${identity:}`, which name folders, also of what cannot be settled: its job says what is wrong."""

    def folder_words(*, _root_: DictConfig) -> str:
        return words(_root_, _root_.hydra.runtime.choices)

    def folder_identity(*, _root_: DictConfig) -> str:
        try:
            return identity(settled(_root_, _root_.hydra))
        except UserError:
            return digest(list(_root_.hydra.overrides.task))[:12]

    OmegaConf.register_new_resolver("words", folder_words, replace=True)
    OmegaConf.register_new_resolver("identity", folder_identity, replace=True)
