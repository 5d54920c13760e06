"""Score a finished run again: on any split, at any threshold, on its own data or on other data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmu_lightning import callbacks
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.store import Store
from gmu_lightning.decisions import Task
from gmu_lightning.experiment import build, robustness
from gmu_lightning.experiment.environment import device_of, has_accelerator, own_environment, prepare_process
from gmu_lightning.experiment.restore import (
    BEST,
    check_sizes,
    recorded,
    restored_encoders,
    rule_of,
    tuned,
    with_weights,
)
from gmu_lightning.experiment.results import predict, scores_in_words, split_scores
from gmu_lightning.experiment.train import lightning_trainer, log_audit
from gmu_lightning.features.columns import FeatureCache
from gmu_lightning.files import write_json
from gmu_lightning.lightning import pl
from gmu_lightning.metrics import TUNED
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import UserError
from gmu_lightning.report.robustness import summary
from gmu_lightning.report.robustness import write as write_robustness
from gmu_lightning.run import Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged

logger = logging.getLogger(__name__)


def evaluate(
    run: Run,
    split: str,
    root: str | None,
    threshold: str,
    store: Store,
    robustness_seed: int | None = None,
    backend: str | None = None,
    config_dir: str | None = None,
) -> Path:
    """Write predictions and scores of one split to RUN/evaluate/<time>/. The run's own files stay unchanged.

    Args:
        run: a run with a best checkpoint.
        split: `train`, `val` or `test`.
        root: folder of other raw data, or None for the run's own. The run's draws of a split, of a share of train and of missing
            modalities are repeated on the same data, wherever they are, and on no other.
        threshold: a number, or `val` or `val_per_genre`, which are tuned on the run's own val predictions. Only a multilabel
            run has another one than 0.5, the default.
        store: of prepared and encoded contents.
        robustness_seed: if not None, also score the split without some modalities. The seed draws the movies that lose one.
        backend: runs frozen networks. None takes the backend of the run's configuration.
        config_dir: a folder whose classes the run may name; None accepts the package's classes alone.

    Returns:
        The new folder.

    Raises:
        UserError: an argument is wrong, a file of the run is damaged or missing, or the data cannot be read.
    """
    if run.status.get("state") not in (None, "finished"):
        logger.warning("%s did not finish: what is scored is its best checkpoint so far", run.folder)
    prepare_process()
    config, checkpoint = recorded(run, root, backend, config_dir)
    config = _on_its_data(config, run, store, root)
    if (run / "evaluate").is_symlink():
        raise UserError(f"{run / 'evaluate'} is a link, and results stay inside the run's folder: remove the link")
    rules = _rules(threshold, run, config.data.task)
    _check_genres(checkpoint["gmu_lightning"]["genres"], run, rules)
    data, model = restored(config, checkpoint, store, run / BEST)
    table = data.table
    log_audit(table, table.warnings)
    collector = callbacks.SplitPredictions(table, config.modalities)
    if robustness_seed is not None and not table.labels[table.rows(split)].any():
        raise UserError(f"robustness=true compares scores, and no movie of {split} has a label: leave it out, or add the labels")
    ablation = None if robustness_seed is None else robustness.ablation(model, data, split, robustness_seed)
    predictions = predict(_trainer(config, collector), collector, data, ablation or model, split)
    if rules:
        (predictions.threshold,) = rules.values()
    folder = run / "evaluate" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    predictions.write(folder / f"predictions/{split}.parquet")
    scores = split_scores(predictions, model, rules)
    write_json(folder / "metrics.json", {f"{split}/{name}": value for name, value in scores.items()})
    write_json(folder / "audit.json", table.report())
    print(f"{scores_in_words(scores, split)}, {scores['movies']} movies, in {folder}")
    if ablation is not None:
        study = ablation.study(run.folder.resolve().name, predictions)
        write_robustness(study, folder)
        print(f"{summary(study)}\n{folder / 'robustness.png'}\n{folder / 'robustness.md'}")
    return folder


def _on_its_data(config: RunConfig, run: Run, store: Store, root: str | None) -> RunConfig:
    """Return the configuration, without the drawn split, share of train and missing modalities if the data are not the run's.

    Args:
        config: of the run, with the folder of the data.
        run: its fingerprint tells whether the data are its own.
        store: of the data.
        root: as typed; None for the run's own data.

    Raises:
        UserError: the run's own data are gone.
    """
    if root is None:
        records.check_root(config.mapping, run / "config.yaml")
    if root is None or not config.data.drawn:
        return config
    with suppress(UserError):  # a draw may be impossible there; other errors come again
        if not disagreeing(build.load_table(config, store, fitted=True).fingerprint, run.data_fingerprint):
            return config
    logger.warning("data.root=%s holds other data than the run's, so %s is not repeated", root, config.data.drawn)
    return config.as_published


def restored(
    config: RunConfig, checkpoint: Mapping[str, Any], store: Store, path: Path = Path("checkpoint")
) -> tuple[MovieDataModule, MovieGenreClassifier]:
    """Return the data with the checkpoint's genres, and the model with the checkpoint's weights in evaluation mode.

    Args:
        config: of the run.
        checkpoint: its content.
        store: of prepared and encoded contents.
        path: of the checkpoint, for errors.

    Raises:
        UserError: the data cannot be read, or the checkpoint does not fit the model.
    """
    about = checkpoint["gmu_lightning"]
    encoders = restored_encoders(config, checkpoint, path)
    table = build.load_table(config, store, fitted=True).labelled(about["genres"])
    cache = FeatureCache(store, device_of(config.trainer), config.encode)
    table, columns, _ = build.build_columns(table, encoders, config.fusion.target, cache, fitted=True)
    check_sizes(encoders, about["sizes"])
    model, data = build.build_model(config, table, columns, encoders, fitted=True)
    return data, with_weights(model, checkpoint, path)


def _trainer(config: RunConfig, collector: callbacks.SplitPredictions) -> pl.Trainer:
    """Return a Trainer on one device at the run's precision. Raises UserError if this machine or Lightning lacks one of them."""
    accelerator: str
    accelerator, precision = config.trainer.accelerator, config.trainer.precision
    if not has_accelerator(accelerator):
        logger.warning(
            "the run was trained with trainer.accelerator=%s, which this machine lacks: evaluated on the CPU", accelerator
        )
        accelerator = "cpu"
    chosen = f"trainer.accelerator={accelerator} and trainer.precision={precision}"
    return lightning_trainer(
        f"the run's {chosen} are not possible here ({{}}): mend them in its config.yaml",
        accelerator=accelerator,
        devices=1,
        precision=precision,
        callbacks=[collector],
        plugins=own_environment(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


def _check_genres(genres: Sequence[str], run: Run, rules: Mapping[str, Any]) -> None:
    """Check that tuned thresholds belong to the checkpoint's genres. Raises Damaged."""
    if rules.keys() & TUNED.keys() and run.predictions("val").genres != tuple(genres):
        raise Damaged(run / "predictions/val.parquet", "its genres are not those of best.ckpt")


def _rules(threshold: str, run: Run, task: Task) -> dict[str, Any]:
    """Return {rule: threshold, one or one per genre}; {} for the plain decisions. Raises UserError for another rule."""
    rule = rule_of(threshold, task, run.folder)
    if isinstance(rule, str):
        val = run.predictions("val")
        return {rule: tuned(rule, val.labels, val.probabilities)}
    return {} if rule == 0.5 else {f"{rule:g}": rule}
