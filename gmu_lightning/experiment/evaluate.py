"""Score a finished run again: on any split, at any threshold, on its own data or on other data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmu_lightning import callbacks
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.decisions import Task
from gmu_lightning.diagnosis.crossing import CrossedMovies
from gmu_lightning.diagnosis.study import diagnose
from gmu_lightning.encoders.base import Encoder
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
from gmu_lightning.files import digest, write_json
from gmu_lightning.lightning import pl
from gmu_lightning.metrics import TUNED
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Column, UserError
from gmu_lightning.report.diagnosis import NAME, Diagnosis, combined
from gmu_lightning.report.diagnosis_sentences import basis, sentences
from gmu_lightning.report.robustness import summary
from gmu_lightning.report.robustness import write as write_robustness
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import Predictions, Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged

logger = logging.getLogger(__name__)


class RestoredData:
    """Keep the tables and columns of evaluated runs in memory, because many runs of a sweep read the same ones."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[MovieTable, dict[str, Column]]] = {}

    def load(
        self, config: RunConfig, about: Mapping[str, Any], encoders: Mapping[str, Encoder], store: Store
    ) -> tuple[MovieTable, dict[str, Column]]:
        """Return the table and the columns of a run.

        Args:
            config: of the run.
            about: the metadata of its checkpoint.
            encoders: with the preparations of the checkpoint.
            store: of prepared and encoded contents.

        Raises:
            UserError: the data cannot be read.
        """
        key: Any = object()  # of preparations that cannot be compared
        with suppress(TypeError):
            key = (build.data_key(config), str(store.root), digest([about["genres"], about["preparations"]]))
        if key not in self._known:
            table = build.load_table(config, store, fitted=True).labelled(about["genres"])
            cache = FeatureCache(store, device_of(config.trainer), config.encode)
            self._known[key] = build.build_columns(table, encoders, config.fusion.target, cache, fitted=True)[:2]
        table, columns = self._known[key]
        for modality, encoder in encoders.items():
            encoder.adopt(columns[modality].preparation)
        return table, columns


def evaluate(
    run: Run,
    split: str,
    root: str | None,
    threshold: str,
    store: Store,
    robustness_seed: int | None = None,
    backend: str | None = None,
    config_dir: str | None = None,
    diagnose_seed: int | None = None,
    known: RestoredData | None = None,
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
        diagnose_seed: if not None, also write a diagnosis. The seed draws permutations and partners.
        known: data in memory, to share between the evaluations of several runs.

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
    data, model = restored(config, checkpoint, store, run / BEST, known)
    table = data.table
    log_audit(table, table.warnings)
    collector = callbacks.SplitPredictions(table, config.modalities)
    _check_labels(table, split, {"robustness": robustness_seed, "diagnose": diagnose_seed})
    ablation = None if robustness_seed is None else robustness.ablation(model, data, split, robustness_seed)
    trainer = None if ablation is None and _is_small(config, data) else _trainer(config, collector)
    if trainer is None:
        model.to(device_of(config.trainer))
    predictions = predict(trainer, collector, data, ablation or model, split)
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
    if diagnose_seed is not None:
        found = diagnosis_of(model.to(device_of(config.trainer)), data, predictions, diagnose_seed)
        found.write(folder, sentences(run.folder.resolve().name, combined([found])))
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


def evaluate_all(runs: Sequence[Run], evaluated: Callable[[Run, RestoredData], Path]) -> None:
    """Evaluate runs one after the other, and print their diagnoses in words, those of one setting's runs together.

    Args:
        runs: at least one.
        evaluated: evaluates a run and returns the new folder; `evaluate` with its other arguments.

    Raises:
        UserError: the only run cannot be evaluated, or some of several cannot, after the others were evaluated.
    """
    known, failed, folders = RestoredData(), list[str](), dict[Run, Path]()
    for run in runs:
        try:
            folders[run] = evaluated(run, known)
        except UserError as error:
            if len(runs) == 1:
                raise
            logger.warning("%s is left out: %s", run.folder, error)
            failed.append(str(run.folder))
    print("".join(_in_words({run: folder for run, folder in folders.items() if (folder / NAME).exists()})), end="")
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs could not be evaluated, such as {failed[0]}: the reasons are above")


def _in_words(folders: Mapping[Run, Path]) -> list[str]:
    """Return the findings of the diagnoses in some runs' new folders, setting by setting."""
    place = {run.folder: folder for run, folder in folders.items()}
    named = {one.name: [run.folder for run in one.finished] for one in settings_of(folders)} if len(folders) > 1 else {}
    rest = [folder for folder in place if not any(folder in of_one for of_one in named.values())]
    named |= {folder.resolve().name: [folder] for folder in rest}
    found = {name: combined([Diagnosis.read(place[run] / NAME) for run in of_one]) for name, of_one in named.items() if of_one}
    words = {name: sentences(name, one) for name, one in found.items()}
    return [f"{line}\n" for name, lines in words.items() if lines for line in (*lines, f"({basis(found[name])})")]


def diagnosis_of(model: MovieGenreClassifier, data: MovieDataModule, predictions: Predictions, seed: int) -> Diagnosis:
    """Return the diagnosis of a model on the split that it predicted.

    The logits of subsets of modalities are calibrated on val, unless val itself is diagnosed or has no labels.

    Args:
        model: on the device that computes.
        data: of the run.
        predictions: of a whole split, with a label.
        seed: of permutations and partners.
    """
    movies = CrossedMovies.of(model, data, predictions.split)
    labels = data.table.labels[data.table.rows("val")]
    other = predictions.split != "val" and labels.any()
    return diagnose(movies, predictions, (CrossedMovies.of(model, data, "val"), labels) if other else None, seed)


def _check_labels(table: MovieTable, split: str, studies: Mapping[str, int | None]) -> None:
    """Raise UserError if one of the studies {option: seed, or None if it is not wanted} compares scores of unlabelled movies."""
    wanted = next((word for word, seed in studies.items() if seed is not None), None)
    if wanted and not table.labels[table.rows(split)].any():
        raise UserError(f"{wanted}=true compares scores, and no movie of {split} has a label: leave it out, or add the labels")


def _is_small(config: RunConfig, data: MovieDataModule) -> bool:
    """Return whether features are stored vectors in float32, which a plain loop predicts faster than a Trainer starts."""
    return config.trainer.in_float32 and all(column.resident is not None for column in data.columns.values())


def restored(
    config: RunConfig,
    checkpoint: Mapping[str, Any],
    store: Store,
    path: Path = Path("checkpoint"),
    known: RestoredData | None = None,
) -> tuple[MovieDataModule, MovieGenreClassifier]:
    """Return the data with the checkpoint's genres, and the model with the checkpoint's weights in evaluation mode.

    Args:
        config: of the run.
        checkpoint: its content.
        store: of prepared and encoded contents.
        path: of the checkpoint, for errors.
        known: data in memory.

    Raises:
        UserError: the data cannot be read, or the checkpoint does not fit the model.
    """
    about = checkpoint["gmu_lightning"]
    encoders = restored_encoders(config, checkpoint, path)
    table, columns = (known or RestoredData()).load(config, about, encoders, store)
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
