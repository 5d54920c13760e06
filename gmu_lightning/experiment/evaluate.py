"""A finished run scored again: on any split, at any threshold, on the data it saw or on other data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning import callbacks
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build, robustness
from gmu_lightning.experiment.allocator import keep_pages
from gmu_lightning.experiment.conf import checked_as_data
from gmu_lightning.experiment.results import predict, scores_in_words, split_scores
from gmu_lightning.experiment.train import device_of, own_environment, quiet_libraries, say_audit
from gmu_lightning.files import write_json
from gmu_lightning.lightning import pl
from gmu_lightning.metrics import tune_per_genre, tune_threshold
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import SPLITS, GenreVocabulary, UserError
from gmu_lightning.report.robustness import summary
from gmu_lightning.report.robustness import write as write_robustness
from gmu_lightning.run import Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.checkpoint import check_agreement, check_weights
from gmu_lightning.run_files.checkpoint import checkpoint as read_checkpoint
from gmu_lightning.run_files.content import Damaged


def evaluate(
    run: Run,
    split: str,
    root: str | None,
    threshold: str,
    store: Store,
    robustness_seed: int | None = None,
    backend: str | None = None,
) -> Path:
    """Predictions and scores of one split into RUN/evaluate/<time>/; the run's own files stay as they are.

    Args:
        root: other raw data than the run's; None for the same.
        threshold: a number, `val` or `val_per_genre` (tuned on the run's own val predictions).
        robustness_seed: also what the scores become without some modalities, the movies that lose one being drawn with this seed.
        backend: what runs frozen networks; None for what the run's configuration says.

    Returns:
        The folder.
    """
    if split not in SPLITS:
        raise UserError(f"split={split} does not exist: choose one of {', '.join(SPLITS)}")
    if run.status.get("state") not in (None, "finished"):
        print(f"{run.folder} did not finish: what is scored is its best checkpoint so far", file=sys.stderr)
    rules = _rules(threshold, run)
    config = {**run.config}
    checked_as_data(config, run / "config.yaml")
    records.check_evaluated_config(config, run / "config.yaml")
    if root is not None:
        config["data"] = {**config["data"], "root": root}
    if backend is not None:
        config["encode"] = {**(config.get("encode") or {}), "backend": backend}
    keep_pages()
    quiet_libraries()
    weights = run / "checkpoints/best.ckpt"
    try:
        checkpoint = read_checkpoint(weights)
    except FileNotFoundError:
        raise UserError(f"{weights} does not exist: give the folder of a run that finished") from None
    check_agreement(checkpoint["gmu_lightning"], config, run.folder)
    _check_genres(checkpoint["gmu_lightning"]["genres"], run, rules)
    data, model = restored(config, checkpoint, store, weights)
    for sentence in data.warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    say_audit(data)
    about = checkpoint["gmu_lightning"]
    collector = callbacks.SplitPredictions(tuple(about["genres"]), tuple(about["modalities"]), data.ids, data.fingerprint)
    if robustness_seed is not None and not data.labels[data.rows(split)].any():
        raise UserError(f"robustness=true compares scores, and no movie of {split} has a label: leave it out, or add the labels")
    deprived = None if robustness_seed is None else robustness.deprived(model, data, split, robustness_seed)
    predictions = predict(_trainer(config, collector), collector, data, deprived or model, split)
    predictions.threshold = next(iter(rules.values()), 0.5)
    folder = run / "evaluate" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    predictions.write(folder / f"predictions/{split}.parquet")
    scores = split_scores(predictions, model, rules)
    write_json(folder / "metrics.json", {f"{split}/{name}": value for name, value in scores.items()})
    write_json(folder / "audit.json", data.audit_report())
    print(f"{scores_in_words(scores, split)}, {scores['movies']} movies, in {folder}")
    if deprived is not None:
        study = deprived.study(run.folder.resolve().name, predictions)
        write_robustness(study, folder)
        print(f"{summary(study)}\n{folder / 'robustness.png'}\n{folder / 'robustness.md'}")
    return folder


def restored(
    config: Mapping[str, Any], checkpoint: Mapping[str, Any], store: Store, path: Path = Path("checkpoint")
) -> tuple[MovieData, MovieGenreClassifier]:
    """The data under the checkpoint's genres, and the model with the checkpoint's weights.

    Args:
        path: of the checkpoint, for errors.
    """
    about = checkpoint["gmu_lightning"]
    said = config.get("store") or {}
    store = store.keeping(**{key: said[key] for key in ("precision", "blocks") if key in said})  # older runs say nothing of it
    encoders = build.build_encoders(config)
    for modality, encoder in encoders.items():
        encoder.preparation = _restored_preparation(encoder, about["preparations"][modality], path)
    data = build.build_data(config, store, fitted=True)
    data.vocabulary = GenreVocabulary(tuple(about["genres"]))
    data.labels = data.vocabulary.encode(movie.genres for movie in data.movies)
    build.build_columns(data, encoders, build.needs_of(config), store, device_of(config), build.encoding_of(config), fitted=True)
    _same_sizes(encoders, about["sizes"])
    model = build.build_model(config, data, encoders, fitted=True)
    check_weights(checkpoint["state_dict"], model.state_dict(), path)
    model.load_state_dict(checkpoint["state_dict"])
    return data, model.eval()


def _trainer(config: Mapping[str, Any], collector: callbacks.SplitPredictions) -> pl.Trainer:
    """On one device, at the run's precision. Raises UserError where this machine or Lightning has none such."""
    accelerator, precision = str(config["trainer"]["accelerator"]), config["trainer"]["precision"]
    if not build.has_accelerator(accelerator):
        print(
            f"the run was trained with trainer.accelerator={accelerator}, which this machine lacks: evaluated on the CPU",
            file=sys.stderr,
        )
        accelerator = "cpu"
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,
            callbacks=[collector],
            plugins=own_environment(1),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise UserError(
            f"the run's trainer.accelerator={accelerator} and trainer.precision={precision} are not possible here "
            f"({str(error).splitlines()[0]}): mend them in its config.yaml"
        ) from error


def _restored_preparation(encoder: Encoder, state: Mapping[str, Any], path: Path) -> Any:
    try:
        return encoder.preparation.restored(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise Damaged(
            path, f"what its preparation of {encoder.modality} learned cannot be used ({type(error).__name__})"
        ) from error


def _check_genres(genres: Sequence[str], run: Run, rules: Mapping[str, Any]) -> None:
    """Thresholds per genre are those of the checkpoint's genres. Raises Damaged."""
    if rules.keys() & {"val", "val_per_genre"} and run.predictions("val").genres != tuple(genres):
        raise Damaged(run / "predictions/val.parquet", "its genres are not those of best.ckpt")


def _same_sizes(encoders: Mapping[str, Encoder], sizes: Mapping[str, int]) -> None:
    for modality, encoder in encoders.items():
        if encoder.dim != sizes[modality]:
            raise UserError(
                f"encoder.{modality} gives {encoder.dim} features, the checkpoint was trained on {sizes[modality]}: "
                "its weights are not those of the run"
            )


def _rules(threshold: str, run: Run) -> dict[str, Any]:
    if threshold in ("val", "val_per_genre"):
        val = run.predictions("val")
        tune = tune_threshold if threshold == "val" else tune_per_genre
        return {threshold: np.asarray(tune(val.labels, val.probabilities)).tolist()}
    try:
        number = float(threshold)
    except ValueError:
        raise UserError(f"threshold={threshold} is no rule: give a number in [0, 1], val or val_per_genre") from None
    if not 0 <= number <= 1:
        raise UserError(f"threshold={threshold} is no probability: give a number in [0, 1], val or val_per_genre")
    return {} if number == 0.5 else {f"{number:g}": number}
