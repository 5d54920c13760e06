"""Build data, encoders, columns and model from a typed configuration. The classes get plain arguments, without Hydra."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import cast

import numpy as np
import torch

from gmu_lightning.balance import PlainTraining
from gmu_lightning.config.schema import EncoderConfig, RunConfig
from gmu_lightning.data.contents import NoneUsable
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.store import PreparedColumn, Store, prepared
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.metadata import TablePreparation
from gmu_lightning.encoders.weights import remember_in
from gmu_lightning.features.columns import FeatureCache
from gmu_lightning.features.runner import features_of
from gmu_lightning.fusion import Fusion
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Column, UserError
from gmu_lightning.nn.normalise import Standardise

logger = logging.getLogger(__name__)
# Settings of an encoder that the model applies to the features. Columns are the same for all their values.
FEATURE_SETTINGS = ("dropout", "modality_dropout", "normalise", "lr")


def load_table(config: RunConfig, store: Store, fitted: bool = False) -> MovieTable:
    """Return the table of every movie of every split, with genres and audit.

    From now on, the store also remembers facts about pretrained weights. If its folder is created now, a message names it.

    Args:
        config: of the run.
        store: of prepared and encoded contents.
        fitted: True if a trained model will read the data, so that a split may lack a modality or its labels.

    Raises:
        UserError: the data cannot be read, or no model can learn from it.
    """
    remember_in(store.root / "weights", store.read_only)
    new = not (store.read_only or store.root.exists())
    table = config.data.make().data_set.load(config.modalities, store, fitted)
    if new:
        store.root.mkdir(parents=True, exist_ok=True)
        logger.warning("store.dir=%s was created: it keeps prepared inputs and features for later runs", store.root.absolute())
    return table


def build_encoders(parts: Mapping[str, EncoderConfig]) -> dict[str, Encoder]:
    """Return one encoder per modality, in order. Weights are located but not loaded. Raises UserError if they are missing."""
    encoders = {modality: part.make() for modality, part in parts.items()}
    for encoder in encoders.values():
        encoder.check()
    return encoders


def build_columns(
    table: MovieTable, encoders: Mapping[str, Encoder], fusion: type[Fusion], cache: FeatureCache, fitted: bool = False
) -> tuple[MovieTable, dict[str, Column], dict[str, float]]:
    """Return the table without unusable contents, one column per encoder, and the seconds of preparing and encoding.

    The columns lack the contents that `data.missing` takes. The store keeps these too, for runs with other rates.

    Args:
        table: of the data set.
        encoders: each adopts the preparation of its column.
        fusion: decides which features are cached.
        cache: of the features of frozen encoders.
        fitted: True if a trained model will read the data. Its preparations were fitted before, perhaps on other data.

    Returns:
        The table, {modality: column}, and {`prepare`: seconds, `encode`: seconds}.

    Raises:
        UserError: a split has no usable content of a modality, or an encoder cannot run.
    """
    columns: dict[str, Column] = {}
    present: dict[str, np.ndarray] = {}
    seconds = {"prepare": 0.0, "encode": 0.0}
    for modality, encoder in encoders.items():
        start = time.perf_counter()
        table, raw = prepare_column(table, encoder, cache.store, fitted)
        encoder.adopt(raw.preparation)
        _log_cut(encoder, raw)
        prepared_at = time.perf_counter()
        whole = cache.column(encoder, raw, fusion)
        present[modality] = whole.present | table.taken(modality)
        columns[modality] = whole.without(table.missing[modality]) if modality in table.missing else whole
        seconds["prepare"] += prepared_at - start
        seconds["encode"] += time.perf_counter() - prepared_at
    table = table.stored(present)
    return (table if fitted else table.checked_labels()), columns, seconds


def _log_cut(encoder: Encoder, column: PreparedColumn) -> None:
    """Log the number of texts that are as long as the encoder reads, and so are cut there."""
    most = getattr(encoder, "max_tokens", None)
    cut = int((column.lengths[column.present] >= most).sum()) if most else 0
    if cut:
        logger.info("%d of %d texts reach encoder.text.max_tokens=%d and are cut there", cut, column.present.sum(), most)


class DatasetCache:
    """Keep the tables and columns of recent settings in memory, for the runs of one process.

    Args:
        most: number of settings to keep.
    """

    def __init__(self, most: int = 4):
        self.most = most
        self._known: OrderedDict[str, tuple[MovieTable, dict[str, Column]]] = OrderedDict()

    def load(
        self, config: RunConfig, encoders: Mapping[str, Encoder], device: torch.device
    ) -> tuple[MovieTable, dict[str, Column], dict[str, float]]:
        """Return table, columns, and {`prepare`: seconds, `encode`: seconds}, which are 0 for data in memory.

        Args:
            config: of the run.
            encoders: each adopts the preparation of its column.
            device: runs frozen networks.

        Raises:
            UserError: the data cannot be read, or no model can learn from it.
        """
        key = data_key(config)
        seconds = {"prepare": 0.0, "encode": 0.0}
        if key not in self._known:
            start = time.perf_counter()
            store = Store.of(config.store)
            table = load_table(config, store)
            reading = time.perf_counter() - start
            cache = FeatureCache(store, device, config.encode)
            table, columns, seconds = build_columns(table, encoders, config.fusion.target, cache)
            seconds["prepare"] += reading
            self._known[key] = table, columns
            if len(self._known) > self.most:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        table, columns = self._known[key]
        for modality, encoder in encoders.items():
            encoder.adopt(columns[modality].preparation)
        return table, columns, seconds


def data_key(config: RunConfig) -> str:
    """Return a text that is equal for runs which read the same columns of the same data."""
    encoders = {m: {k: v for k, v in part.node.items() if k not in FEATURE_SETTINGS} for m, part in config.encoder.items()}
    needs = config.fusion.target.needs
    parts = [config.data.node, config.modalities, encoders, needs, asdict(config.store), asdict(config.encode)]
    return json.dumps(parts, sort_keys=True)


def prepare_column(table: MovieTable, encoder: Encoder, store: Store, fitted: bool = False) -> tuple[MovieTable, PreparedColumn]:
    """Return the table, with unusable contents in its audit, and the prepared column of one modality.

    Args:
        table: of the data set.
        encoder: its preparation is fitted on train, and stores the contents.
        store: receives the column.
        fitted: True if the preparation is fitted already.

    Raises:
        UserError: no movie of a split has usable content, and `fitted` is False.
    """
    modality = encoder.modality
    contents, digests, left = table.contents(modality), table.digests[modality], ~table.taken(modality)
    try:
        with table.audited():
            column = prepared(
                *(store, modality, contents, digests, table.learned_from(modality), encoder.preparation, fitted),
                str(table.layout.root),
            )
    except NoneUsable as nothing:
        table = table.noting(modality, nothing.bad)
        table.require(modality, np.array([content is not None for content in contents]) & ~table.in_train & left)
        raise
    table = table.noting(modality, column.bad)
    if not fitted:
        table.require(modality, column.present & left)
    if isinstance(column.preparation, TablePreparation):
        read = [content if there else None for content, there in zip(contents, left, strict=True)]
        table = table.noting_cells(modality, column.preparation.columns(read))
    return table, column


def build_model(
    config: RunConfig,
    table: MovieTable,
    columns: Mapping[str, Column],
    encoders: Mapping[str, Encoder],
    fitted: bool = False,
) -> tuple[MovieGenreClassifier, MovieDataModule]:
    """Return the model, whose initial weights depend on the seed alone, and the data module that gives its batches.

    Args:
        config: of the run.
        table: of the data set.
        columns: {modality: column}.
        encoders: {modality: encoder}; those without cached features are built.
        fitted: True if a checkpoint will replace all weights, those of the loss too. The loss then ignores the train labels.

    Raises:
        UserError: a part's class or argument is wrong.
    """
    torch.manual_seed(config.seed)
    for modality, encoder in encoders.items():
        if columns[modality].cached is None:
            encoder.build()
    mixed = "text" in encoders and not encoders["text"].wastes_padding
    data: MovieDataModule = config.data.make().over(table, columns, config.seed, mixed)
    trainer = config.trainer
    labels = np.ones_like(table.labels[:1]) if fitted else table.labels[table.in_train]
    steps = partial(data.total_steps, trainer.max_epochs, trainer.accumulate_grad_batches)
    model = assembled(config, encoders, labels, steps)
    if not fitted:
        _check_weights(model, config)
    return model, data


def _check_weights(model: MovieGenreClassifier, config: RunConfig) -> None:
    """Raise UserError if the training method changes gradients, and a modality has no weights of its own."""
    lacking = [m for m, names in zip(config.modalities, model.modality_weights(), strict=True) if not names]
    if model.balance.modulates and lacking:
        raise UserError(
            f"training={config.choices.get('training')} changes the gradients of each modality's own layers, and no layer of "
            f"{' and '.join(lacking)} alone is trained: keep fusion.hidden=true, or choose training=unimodal_loss"
        )


def assembled(
    config: RunConfig, encoders: Mapping[str, Encoder], labels: np.ndarray, total_steps: Callable[[], int] = lambda: 1
) -> MovieGenreClassifier:
    """Return the model around the encoders, with weights drawn from torch's global generator.

    Args:
        config: of the run.
        encoders: {modality: encoder}; those without features from elsewhere are built.
        labels: (n, C) bool, of train; the loss may weigh genres by them.
        total_steps: returns the number of updates of the whole run.

    Raises:
        UserError: a part's class or argument is wrong.
    """
    fusion = config.fusion.make(**config.fusion.target.arguments(encoders))
    loss = config.loss.make(labels=labels)
    own = {key: value for key, value in config.optimizer.node.items() if key not in ("lr", "weight_decay")}
    return MovieGenreClassifier(
        encoders=encoders,
        fusion=fusion,
        genres=labels.shape[1],
        loss=loss,
        task=config.data.task,
        optimizer=replace(config.optimizer, node=own).make,
        scheduler=config.scheduler.make,
        lr=float(config.optimizer.lr),
        weight_decay=float(config.optimizer.weight_decay),
        total_steps=total_steps,
        monitor=config.monitor,
        balance=config.training.make(),
    )


def fit_normalisers(model: MovieGenreClassifier, data: MovieDataModule, device: torch.device) -> None:
    """Set the means and deviations of every standardised modality from the movies of train that have it.

    They are taken over tokens if the fusion reads tokens, and over vectors otherwise.

    Args:
        model: its normalisers are fitted in place.
        data: gives the columns and the rows of train.
        device: runs encoders whose features are not cached.
    """
    for modality, normaliser in model.normalisers.items():
        if isinstance(normaliser, Standardise):
            column = data.columns[modality]
            rows = [n for n in data.table.rows("train").tolist() if column.present[n]]
            found = features_of(cast(Encoder, model.encoders[modality]), column, rows, device)
            by_token = model.fusion.reads_tokens(modality)
            normaliser.fit(f.real_tokens() if by_token and f.sequence is not None else f.vector for f in found)


def summary(model: MovieGenreClassifier, columns: Mapping[str, Column]) -> list[str]:
    """Return one line for each encoder, the fusion and the head, with their numbers of parameters, and for balanced training."""

    def count(module: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()):,} parameters"

    lines = []
    for modality, module in model.encoders.items():
        encoder = cast(Encoder, module)
        cached = columns[modality].cached
        how = "trained" if encoder.freeze == "none" else f"freeze={encoder.freeze}"
        how += f" with lora={encoder.lora}" if getattr(encoder, "lora", None) else ""
        size = count(encoder)
        if cached:
            size = f"{cached.parameters:,} parameters, {cached.bytes / 1e6:.1f} MB of float32 features from the store"
        lines.append(f"{modality}: {type(encoder).__name__}, {how}, {size}, {encoder.dim} numbers, normalise={encoder.normalise}")
    method = [] if type(model.balance) is PlainTraining else [f"training: {type(model.balance).__name__}"]
    fusion = f"fusion: {type(model.fusion).__name__}, {count(model.fusion)}, {model.fusion.size} numbers"
    return [*lines, fusion, f"head: {type(model.head).__name__}, {count(model.head)}", *method]
