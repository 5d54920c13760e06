"""Train one run, from its resolved configuration to the last file in its folder."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gmu_lightning import callbacks
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.audit import columns_summary
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.text.packed import LENGTH, TOKENS
from gmu_lightning.experiment import build, resume
from gmu_lightning.experiment.choices import check_choices
from gmu_lightning.experiment.environment import (
    device_of,
    environment,
    own_environment,
    peak_memory_mb,
    prepare_process,
    use_threads,
)
from gmu_lightning.experiment.loggers import close_loggers, log_epochs, open_loggers
from gmu_lightning.experiment.results import FitResult, final_scores, write_gates
from gmu_lightning.files import write_json
from gmu_lightning.lightning import pl
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Column, UserError
from gmu_lightning.nn.dropout import MASKS
from gmu_lightning.run import Run
from gmu_lightning.visible import first_line

logger = logging.getLogger(__name__)


class PreparedRun(NamedTuple):
    """A run that is ready to be fitted.

    Attributes:
        config, run, data, model: its parts. The model's weights are freshly drawn, and its normalisers are fitted.
        checkpoints: folder of the checkpoints, also of those from which the fit continues.
        seconds: {`prepare`: seconds, `encode`: seconds} of reading the data.
        started, ready: `time.perf_counter()` before and after the preparation.
    """

    config: RunConfig
    run: Run
    data: MovieDataModule
    model: MovieGenreClassifier
    checkpoints: Path
    seconds: dict[str, float]
    started: float
    ready: float


Fit = Callable[[PreparedRun, list[Any]], FitResult]


def train(
    config: RunConfig,
    run: Run,
    group: str | None = None,
    cache: build.DatasetCache | None = None,
    continues: Path | None = None,
) -> dict[str, Any]:
    """Fit a model, choose the best epoch on val, score val and test, and write the run's files.

    A run whose folder holds checkpoints of an interrupted fit continues from the last one.

    Args:
        config: of the run.
        run: a run that has begun; the caller ends its status.
        group: name of the sweep, for loggers that group runs.
        cache: data that is shared with other runs of this process.
        continues: folder of the run whose checkpoints are read; None for its own.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: the data, a part of the configuration or a logger is wrong.
    """
    prepared = open_run(config, run, cache or build.DatasetCache(), continues)
    for line in build.summary(prepared.model, prepared.data.columns):
        logger.info("%s", line)
    return complete(prepared, group, fit)


def complete(prepared: PreparedRun, group: str | None, fit: Fit) -> dict[str, Any]:
    """Fit a prepared run, write its files, and return the content of metrics.json.

    Args:
        prepared: the run.
        group: name of the sweep, for loggers that group runs.
        fit: trains the model of a prepared run, and gives the loggers the scores of each epoch.
    """
    loggers = open_loggers(prepared.config, prepared.run, group)
    metrics: dict[str, Any] | None = None
    figures: list[Path] = []
    try:
        metrics, figures = close_run(prepared, fit(prepared, loggers))
    finally:
        close_loggers(loggers, metrics, figures)
    (prepared.run / "checkpoints" / callbacks.PREVIOUS).unlink(missing_ok=True)
    return metrics


class LoadedData(NamedTuple):
    """The data of a run, its encoders, and the device that computes.

    Attributes:
        seconds: {`prepare`: seconds, `encode`: seconds} of reading the data.
    """

    device: torch.device
    encoders: dict[str, Encoder]
    table: MovieTable
    columns: dict[str, Column]
    seconds: dict[str, float]


def load(config: RunConfig, cache: build.DatasetCache) -> LoadedData:
    """Set up the process, check the choices of a run, and load its data.

    Args:
        config: of the run. Its `trainer.threads` becomes torch's number of threads.
        cache: keeps tables and columns for later runs of this process.

    Raises:
        UserError: a part of the configuration or the data is wrong.
    """
    prepare_process()
    check_choices(config)
    device = device_of(config.trainer)
    use_threads(config.trainer.threads)
    encoders = build.build_encoders(config.encoder)
    return LoadedData(device, encoders, *cache.load(config, encoders, device))


@contextmanager
def keep_audit(folder: Path) -> Iterator[None]:
    """Write audit.json to a folder if the data is refused while inside."""
    try:
        yield
    except UserError as error:
        if error.audit is not None:
            write_json(folder / "audit.json", error.audit)
        raise


def open_run(config: RunConfig, run: Run, cache: build.DatasetCache, continues: Path | None = None) -> PreparedRun:
    """Read the data, write its audit, and build the model: everything before the first step.

    Args:
        config: of the run.
        run: receives audit.json and warnings.
        cache: data that is shared with other runs of this process.
        continues: folder of the run whose checkpoints are read; None for its own.

    Raises:
        UserError: the data or a part of the configuration is wrong.
    """
    started = time.perf_counter()
    with keep_audit(run.folder):
        device, encoders, table, columns, seconds = load(config, cache)
    for sentence in table.warnings:
        run.warn(sentence)
    for encoder in encoders.values():
        if encoder.why_not_constant:
            logger.warning("%s", encoder.why_not_constant)
    if not config.trainer.in_float32:
        logger.warning("the network computes in %s; trainer.precision=32-true computes in float32", config.trainer.precision)
    write_json(run / "audit.json", table.report())
    if table.missing:
        write_json(run / "missing.json", table.lost)
    table.raise_if_strict()
    log_audit(table)
    model, data = build.build_model(config, table, columns, encoders)
    build.fit_normalisers(model, data, device)
    checkpoints = (continues or run.folder) / "checkpoints"
    return PreparedRun(config, run, data, model, checkpoints, seconds, started, time.perf_counter())


def close_run(prepared: PreparedRun, fitted: FitResult) -> tuple[dict[str, Any], list[Path]]:
    """Score a fitted run and write its files: everything after the last step.

    Args:
        prepared: its model has the weights of the best epoch.
        fitted: the outcome of the fit.

    Returns:
        The content of metrics.json, and the PNG files of the figures.
    """
    run, data, model = prepared.run, prepared.data, prepared.model
    table = data.table
    cached = {modality: column.cached for modality, column in data.columns.items() if column.cached}
    encode = {m: {"backend": c.backend, "precision": c.precision, "from_cache": c.from_cache} for m, c in cached.items()}
    write_json(run / "environment.json", environment(fitted.device, prepared.config.seed, table.fingerprint, encode))
    metrics = final_scores(fitted, run, data, model)
    metrics |= {f"seconds/{name}": value for name, value in {**prepared.seconds, "fit": fitted.seconds}.items()}
    metrics |= {
        "seconds/total": time.perf_counter() - prepared.started,
        "movies_per_second": len(table.rows("train")) * fitted.epochs / fitted.seconds,
        "peak_memory_mb": peak_memory_mb(fitted.device),
        "parameters/total": sum(c.parameters for c in cached.values()) + sum(p.numel() for p in model.parameters()),
        "parameters/trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters/fusion": sum(p.numel() for p in model.fusion.parameters()),
    }
    figures = write_gates(run)
    write_json(run / "metrics.json", metrics)
    return metrics, figures


def fit(prepared: PreparedRun, loggers: list[Any]) -> FitResult:
    """Train with Lightning's Trainer, from the last checkpoint if there is one, and load the weights of the best epoch.

    Args:
        prepared: its model is trained in place, and its run receives history.csv and checkpoints.
        loggers: Lightning loggers.

    Raises:
        UserError: the monitored score was never recorded, the Trainer cannot be built, or the checkpoint is of another run.
        KeyboardInterrupt, SystemExit: the user stopped the fit. Lightning exits after a second Ctrl-C.
    """
    config, run, data, model, table = prepared.config, prepared.run, prepared.data, prepared.model, prepared.data.table
    predictions = callbacks.SplitPredictions(table, config.modalities)
    history = callbacks.History(run, predictions)
    plateau = callbacks.Plateau(history, config.monitor)
    model.about = about(config, table, model)
    interruption, batches = callbacks.Interruption(), dict(data.rule)
    rules = (config.monitor, history, interruption, batches, config.trainer.save_every)
    saver = callbacks.Checkpoints(run, prepared.checkpoints, *rules)
    own = [callbacks.Determinism(config.seed), predictions, history, plateau, saver]
    own += [callbacks.Modulation(config.seed)] if model.balance.modulates else []
    trainer = make_trainer(config, loggers, own, run)
    batches |= {"devices": trainer.world_size, "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches}
    batches |= {"dropout masks": MASKS, "packed texts": f"multiples of {TOKENS} and {LENGTH}"}
    found = resume.latest(prepared.checkpoints, config.mapping, table.fingerprint, batches)
    if found is not None:
        logger.warning("%s %s", run.folder.name, found)
        data.resumes_at = found.at
        log_epochs((one for one in loggers if type(one).__name__ == "WandbLogger"), callbacks.Epochs.of(run, found.content))
    if config.trainer.compile:
        model.compile()
    start = time.perf_counter()
    _run_trainer(trainer, interruption, model=model, datamodule=data, ckpt_path=found and found.path, weights_only=True)
    seconds = saver.seconds + time.perf_counter() - start
    if trainer.is_global_zero and config.trainer.profiler:
        print("profile of the fit:", *sorted(map(str, run.folder.glob("fit-profile*"))), file=sys.stderr)
    trainer.profiler = pl.profilers.PassThroughProfiler()  # type: ignore[attr-defined]  # predictions are no part of the fit
    if saver.best_epoch is None:
        raise UserError(f"monitor={config.monitor} was never recorded: choose a score of history.csv, such as val/ap_micro")
    best = torch.load(prepared.checkpoints / callbacks.BEST, weights_only=True, map_location="cpu")
    model.load_state_dict(best["state_dict"])
    warn_of_learning(run, history.epochs, table, config.monitor)
    return FitResult(trainer, predictions, trainer.strategy.root_device, saver.best_epoch, len(history.epochs.rows), seconds)


def _run_trainer(trainer: pl.Trainer, interruption: callbacks.Interruption, **arguments: Any) -> None:
    """Fit, and obey a signal that came meanwhile once the state is saved. Raises KeyboardInterrupt, or what the signal raises."""
    try:
        with interruption:
            trainer.fit(**arguments)
    except callbacks.SafelyStopped:
        interruption.deliver()
    except (Exception, SystemExit):  # a signal has ended loader processes too, or reached Lightning before the first batch
        if interruption.pending is not None:
            interruption.deliver()
        raise
    if interruption.pending is not None or trainer.interrupted:
        interruption.deliver()


def warn_of_learning(run: Run, epochs: callbacks.Epochs, table: MovieTable, monitor: str) -> None:
    """Record and log a warning for every sign that a run has not learned.

    Args:
        run: keeps the warnings in its status.
        epochs: the recorded epochs.
        table: its train labels give the scores of a constant prediction.
        monitor: the monitored score, such as `val/ap_micro`.
    """
    train, val = (table.labels[table.rows(split)] for split in ("train", "val"))
    constant = callbacks.train_share_scores(train, val, table.vocabulary.names, table.data_set.task)
    for sentence in epochs.warnings(monitor, constant):
        run.warn(sentence)
        logger.warning("warning: %s", sentence)


def about(config: RunConfig, table: MovieTable, model: MovieGenreClassifier) -> dict[str, Any]:
    """Return the entry `gmu_lightning` of a checkpoint, which its readers need to use the weights, as plain containers.

    The keys are `genres`, `modalities`, `config`, `preparations` ({modality: learned state}) and `sizes` ({modality: d_m}).
    """
    return {
        "genres": list(table.vocabulary.names),
        "modalities": list(config.modalities),
        "config": config.mapping,
        "preparations": {m: e.preparation.state() for m, e in model.encoders.items()},  # type: ignore[union-attr,operator]
        "sizes": {m: e.dim for m, e in model.encoders.items()},
    }


def make_trainer(config: RunConfig, loggers: list[Any], own: list[pl.Callback], run: Run) -> pl.Trainer:
    """Return Lightning's Trainer for the nodes `trainer` and `callbacks`.

    Args:
        config: of the run.
        loggers: Lightning loggers.
        own: callbacks that every run has.
        run: its folder is the Trainer's root.

    Raises:
        UserError: Lightning refuses an option.
    """
    progress = config.trainer.progress
    if progress == "auto":
        progress = "none" if not logger.isEnabledFor(logging.INFO) else "bar" if sys.stderr.isatty() else "lines"
    if progress == "lines":
        own = [*own, callbacks.EpochLines(config.monitor)]
    if progress == "bar":
        from pytorch_lightning.callbacks import RichProgressBar

        own = [*own, RichProgressBar()]
    extra = [part.make() for part in config.callbacks.values()]
    return lightning_trainer(
        "trainer cannot be built: {}; look at trainer.* on the command line",
        **config.trainer.options,
        profiler=make_profiler(config.trainer.profiler, run.folder),
        callbacks=[*own, *extra],
        logger=loggers or False,
        plugins=[callbacks.AtomicCheckpointIO(), *(own_environment() if config.trainer.on_one_device else [])],
        default_root_dir=str(run.folder),
        num_sanity_val_steps=0,
        log_every_n_steps=10**9,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        enable_checkpointing=True,
        enable_progress_bar=progress == "bar",
    )


def lightning_trainer(refusal: str, **options: Any) -> pl.Trainer:
    """Return Lightning's Trainer. If it refuses an option, raise UserError with its reason in place of `{}` in `refusal`."""
    try:
        return pl.Trainer(**options, enable_model_summary=False)
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise UserError(refusal.format(first_line(error))) from error


def make_profiler(kind: str | None, folder: Path) -> pl.profilers.Profiler:
    """Return Lightning's `simple`, `advanced` or `pytorch` profiler, writing fit-profile.* to `folder`. None measures no time."""
    if kind is None:
        return pl.profilers.PassThroughProfiler()
    kinds = {
        "simple": pl.profilers.SimpleProfiler,
        "advanced": pl.profilers.AdvancedProfiler,
        "pytorch": pl.profilers.PyTorchProfiler,
    }
    return kinds[kind](dirpath=str(folder), filename="profile")


def log_audit(table: MovieTable, warnings: Sequence[str] = ()) -> None:
    """Log the warnings, and in a few lines how a table's columns are read, and the problems of the data."""
    for sentence in warnings:
        logger.warning("warning: %s", sentence)
    for line in (*columns_summary(table.cells), *table.audit.summary()):
        logger.info("%s", line)
