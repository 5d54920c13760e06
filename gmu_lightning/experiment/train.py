"""One run, from a settled configuration to everything its folder holds."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gmu_lightning import callbacks
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.progress import QUIET
from gmu_lightning.data.readings import columns_summary
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build
from gmu_lightning.experiment.allocator import keep_pages
from gmu_lightning.experiment.environment import environment, peak_memory_mb, use_threads
from gmu_lightning.experiment.loggers import close_loggers, open_loggers
from gmu_lightning.experiment.resident import Resident
from gmu_lightning.experiment.results import Fitted, final_scores, write_gates
from gmu_lightning.experiment.settle import modalities_of
from gmu_lightning.files import write_json
from gmu_lightning.lightning import pl
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run


class Opened(NamedTuple):
    """A run that is ready to be fitted."""

    config: Mapping[str, Any]
    run: Run
    data: MovieData
    columns: Mapping[str, Any]
    model: MovieGenreClassifier
    seconds: dict[str, float]
    started: float
    ready: float


def train(config: Mapping[str, Any], run: Run, group: str | None = None, resident: Resident | None = None) -> dict[str, Any]:
    """Fit, choose the best epoch on val, score val and test, write the run's files.

    Args:
        config: settled.
        run: begun already; its status is the caller's to end.
        group: the sweep's name, for loggers that group runs.
        resident: what it shares with other runs of this process.

    Returns:
        metrics.json.
    """
    opened = open_run(config, run, resident or Resident())
    if not os.environ.get(QUIET):
        print("\n".join(build.summary(opened.model, opened.columns)), file=sys.stderr)
    return complete(opened, group)


def complete(opened: Opened, group: str | None) -> dict[str, Any]:
    """Fit a run that is ready, under Lightning's Trainer, and write what it leaves; metrics.json."""
    loggers = open_loggers(opened.config, opened.run, group)
    metrics: dict[str, Any] | None = None
    figures: list[Path] = []
    try:
        fitted = fit(opened.config, opened.run, opened.data, opened.model, loggers)
        metrics, figures = close_run(opened, fitted)
    finally:
        close_loggers(loggers, metrics, figures)
    return metrics


def load(config: Mapping[str, Any], resident: Resident) -> tuple[dict[str, Encoder], MovieData, dict[str, Any], dict[str, float]]:
    """Encoders, data, columns and the seconds they took: all that a run needs of the disk. Raises UserError."""
    keep_pages()
    quiet_libraries()
    build.check_sense(config)
    use_threads(config["trainer"]["threads"])
    encoders = build.build_encoders(config)
    return encoders, *resident.load(config, encoders, Store.of(config["store"]), device_of(config))


@contextmanager
def audit_left(folder: Path) -> Iterator[None]:
    """Leave audit.json in a folder also where the data is refused."""
    try:
        yield
    except UserError as error:
        if error.audit is not None:
            write_json(folder / "audit.json", error.audit)
        raise


def open_run(config: Mapping[str, Any], run: Run, resident: Resident) -> Opened:
    """Everything before the first step. Raises UserError."""
    started = time.perf_counter()
    with audit_left(run.folder):
        encoders, data, columns, seconds = load(config, resident)
    for sentence in data.warnings:
        run.warn(sentence)
    for encoder in encoders.values():
        if encoder.why_not_constant:
            print(encoder.why_not_constant, file=sys.stderr)
    precision = config["trainer"]["precision"]
    if str(precision) not in ("32-true", "32"):
        print(f"the network computes in {precision}; trainer.precision=32-true computes in float32", file=sys.stderr)
    write_json(run / "audit.json", data.audit_report())
    data.raise_if_strict()
    say_audit(data)
    model = build.build_model(config, data, encoders)
    build.fit_normalisers(model, data, device_of(config))
    return Opened(config, run, data, columns, model, seconds, started, time.perf_counter())


def close_run(opened: Opened, fitted: Fitted) -> tuple[dict[str, Any], list[Path]]:
    """Everything after the last step, the best epoch's weights being in the model: metrics.json, and which figures were drawn."""
    run, data, model = opened.run, opened.data, opened.model
    encode = {modality: column.how for modality, column in opened.columns.items() if getattr(column, "how", None)}
    write_json(run / "environment.json", environment(fitted.device, int(opened.config["seed"]), data.fingerprint, encode))
    metrics = final_scores(fitted, run, data, model)
    metrics |= {f"seconds/{name}": value for name, value in {**opened.seconds, "fit": fitted.seconds}.items()}
    cached = sum(getattr(column, "parameters", 0) for column in opened.columns.values())
    metrics |= {
        "seconds/total": time.perf_counter() - opened.started,
        "movies_per_second": len(data.rows("train")) * fitted.epochs / fitted.seconds,
        "peak_memory_mb": peak_memory_mb(fitted.device),
        "parameters/total": cached + sum(p.numel() for p in model.parameters()),
        "parameters/trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters/fusion": sum(p.numel() for p in model.fusion.parameters()),
    }
    figures = write_gates(run)
    write_json(run / "metrics.json", metrics)
    return metrics, figures


def fit(config: Mapping[str, Any], run: Run, data: MovieData, model: MovieGenreClassifier, loggers: list[Any]) -> Fitted:
    """Train, and put the weights of the best epoch back into the model."""
    modalities = modalities_of(config["modalities"])
    predictions = callbacks.SplitPredictions(data.vocabulary.names, modalities, data.ids, data.fingerprint)
    history = callbacks.History(run, predictions)
    model.about = about(config, data, model)
    best, last = callbacks.best_and_last(run / "checkpoints", config["monitor"])
    own = [callbacks.Determinism(int(config["seed"])), predictions, history, best, last]
    data.seed_order(int(config["seed"]))
    trainer = make_trainer(config, loggers, own, run)
    if config["trainer"]["compile"]:
        model.compile()
    start = time.perf_counter()
    try:
        trainer.fit(model, datamodule=data)
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    if not best.best_model_path:
        raise UserError(f"monitor={config['monitor']} was never recorded: choose a score of history.csv, such as val/ap_micro")
    checkpoint = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
    model.load_state_dict(checkpoint["state_dict"])
    warn_of_learning(run, history.epochs, data, config["monitor"])
    epochs = len(history.epochs.rows)
    return Fitted(trainer, predictions, trainer.strategy.root_device, int(checkpoint["epoch"]), epochs, seconds)


def warn_of_learning(run: Run, epochs: callbacks.Epochs, data: MovieData, monitor: str) -> None:
    """Record and print a warning for every sign that a run has not learned."""
    train, val = (data.labels[data.rows(split)] for split in ("train", "val"))
    for sentence in epochs.warnings(monitor, callbacks.train_share_scores(train, val, data.vocabulary.names)):
        run.warn(sentence)
        print(f"warning: {sentence}", file=sys.stderr)


def about(config: Mapping[str, Any], data: MovieData, model: MovieGenreClassifier) -> dict[str, Any]:
    """What a checkpoint says of its weights, as plain containers."""
    return {
        "genres": list(data.vocabulary.names),
        "modalities": list(modalities_of(config["modalities"])),
        "config": dict(config),
        "preparations": {m: e.preparation.state() for m, e in model.encoders.items()},  # type: ignore[union-attr,operator]
        "sizes": {m: e.dim for m, e in model.encoders.items()},
    }


def make_trainer(config: Mapping[str, Any], loggers: list[Any], own: list[pl.Callback], run: Run) -> pl.Trainer:
    """Lightning's Trainer from `trainer` and `callbacks`."""
    options = dict(config["trainer"])
    options.pop("threads"), options.pop("compile")
    shown = options.pop("progress")
    if shown == "auto":
        shown = "none" if os.environ.get(QUIET) else "bar" if sys.stderr.isatty() else "lines"
    if shown == "lines":
        own = [*own, callbacks.EpochLines(config["monitor"])]
    if shown == "bar":
        from pytorch_lightning.callbacks import RichProgressBar

        own = [*own, RichProgressBar()]
    extra = [build.make(node) for node in (config.get("callbacks") or {}).values() if node]
    try:
        return pl.Trainer(
            **options,
            callbacks=[*own, *extra],
            logger=loggers or False,
            plugins=[callbacks.AtomicCheckpointIO(), *own_environment(options["devices"])],
            default_root_dir=str(run.folder),
            num_sanity_val_steps=0,
            log_every_n_steps=10**9,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            enable_checkpointing=True,
            enable_progress_bar=shown == "bar",
            enable_model_summary=False,
        )
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise UserError(
            f"trainer cannot be built: {str(error).splitlines()[0]}; look at trainer.* on the command line"
        ) from error


def own_environment(devices: Any) -> list[Any]:
    """Return the plugin by which a run on one device is alone, whatever Slurm or another cluster says in its variables."""
    if devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1):
        return []
    from pytorch_lightning.plugins.environments import LightningEnvironment
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = 0  # type: ignore[attr-defined]  # read from SLURM_PROCID when Lightning is imported
    return [LightningEnvironment()]


def device_of(config: Mapping[str, Any]) -> torch.device:
    """The device the trainer will use, for the encoding that happens before it."""
    accelerator = str(config["trainer"]["accelerator"])
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def say_audit(data: MovieData) -> None:
    """Print how a table's columns are read, and what is wrong with the data, in a few lines."""
    if not os.environ.get(QUIET):
        for line in (*columns_summary(data.cells), *data.audit.summary()):
            print(line, file=sys.stderr)


def quiet_libraries() -> None:
    """Lightning's tips and notes on devices and workers say nothing about this run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory.*",
        ".*LeafSpec.*",
        ".*overridden `transfer_batch_to_device`.*",
        ".*sync_dist=True.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message)
