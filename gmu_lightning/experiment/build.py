"""A settled configuration -> data, encoders, columns, model. Classes get plain arguments and know nothing of Hydra."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pkgutil import resolve_name
from typing import Any, cast

import numpy as np
import torch
import yaml
from hydra.utils import instantiate

from gmu_lightning.data.module import MovieData
from gmu_lightning.data.readings import note_cells
from gmu_lightning.data.store import Column, NoneUsable, Store, prepared
from gmu_lightning.encoders.backends import Encoding
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.memory import remember_in
from gmu_lightning.encoders.tables import TablePreparation
from gmu_lightning.experiment.conf import choices_of, conf_folder
from gmu_lightning.experiment.settle import modalities_of
from gmu_lightning.features import FeatureColumn, encoded, features_of
from gmu_lightning.frozen_blocks import PartialColumn, partly_encoded
from gmu_lightning.fusion import Fusion
from gmu_lightning.fusion.base import mismatch, prefix_mismatch
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, Senseless, UserError


def make(node: Mapping[str, Any], **arguments: Any) -> Any:
    """The object a node names by `_target_`; what is known only now is given in Python."""
    class_of(node)
    made = instantiate(dict(node), _convert_="all", _partial_=True)
    try:
        return made(**arguments)
    except TypeError as error:
        raise UserError(
            f"{node['_target_']} does not take the arguments it was given ({error}): compare with its docstring"
        ) from error


def class_of(node: Mapping[str, Any]) -> Any:
    """The class or function that a node names by `_target_`. Raises UserError where it cannot be imported."""
    name = str(node["_target_"])
    try:
        return resolve_name(name)
    except Exception as error:  # also whatever the module itself raises as it is imported
        why = " ".join(str(error).split())
        raise UserError(
            f"_target_={name} cannot be imported ({why}): give the dotted name of a class in a module that Python finds from here"
        ) from error


def check_sense(config: Mapping[str, Any]) -> None:
    """Whether data, modalities and fusion go together, judged by what their classes declare.

    Raises:
        Senseless: they do not.
        UserError: one of the classes cannot be imported, or this machine lacks the accelerator.
    """
    modalities = modalities_of(config["modalities"])
    data_class, fusion_class = (class_of(config[name]) for name in ("data", "fusion"))
    offered = data_class.offers(config["data"])
    absent = [m for m in modalities if m not in offered]
    if absent:
        raise Senseless(
            f"data={config['choices'].get('data', data_class.__name__)} has no {' and no '.join(absent)}: "
            f"choose modalities among {', '.join(offered)}"
        )
    problem = mismatch(fusion_class, config["choices"].get("fusion", fusion_class.__name__), modalities, _fusions_of(modalities))
    if problem:
        raise Senseless(problem)
    if "text" in modalities:
        text = class_of(config["encoder"]["text"])
        names = [config["choices"].get(group, cls.__name__) for group, cls in (("fusion", fusion_class), ("encoder/text", text))]
        problem = prefix_mismatch(fusion_class, names[0], text, names[1])
        if problem:
            raise Senseless(problem)
    accelerator = str(config["trainer"]["accelerator"])
    if not has_accelerator(accelerator):
        raise UserError(
            f"trainer.accelerator={accelerator} finds no such device on this machine: type trainer.accelerator=cpu, or "
            "trainer.accelerator=auto, which takes a GPU where there is one"
        )


def has_accelerator(name: str) -> bool:
    """Return whether this machine has Lightning's accelerator `name`; names other than GPUs' are left to Lightning."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return {**found, "gpu": any(found.values())}.get(name, True)


@cache
def _fusions_of(modalities: tuple[str, ...]) -> tuple[str, ...]:
    """The choices of `fusion=` that take these modalities."""
    nodes = {
        name: yaml.safe_load((conf_folder() / f"fusion/{name}.yaml").read_text(encoding="utf-8")) for name in choices_of("fusion")
    }
    classes = {name: class_of(node) for name, node in nodes.items()}
    return tuple(name for name, found in classes.items() if mismatch(found, name, modalities) is None)


def build_data(config: Mapping[str, Any], store: Store, fitted: bool = False) -> MovieData:
    """The data set, read: every movie of every split, its genres and its audit.

    From here on, what pretrained weights say of themselves is remembered in the store.

    Args:
        fitted: a trained model reads the data, so a split may lack a modality or its labels.

    Raises:
        UserError: the data cannot be read, or nothing can be learned from it.
    """
    remember_in(store.root / "weights", store.read_only)
    data: MovieData = make(config["data"])
    data.load(modalities_of(config["modalities"]), store, require=not fitted)
    if not fitted:
        data.check_labelled()
    return data


def build_encoders(config: Mapping[str, Any]) -> dict[str, Encoder]:
    """One per modality, in order; weights are found (or missed, in a sentence) but not loaded."""
    encoders = {m: make(config["encoder"][m]) for m in modalities_of(config["modalities"])}
    for encoder in encoders.values():
        encoder.check()
    return encoders


def build_columns(
    data: MovieData,
    encoders: Mapping[str, Encoder],
    needs: str,
    store: Store,
    device: torch.device,
    encoding: Encoding | None = None,
    fitted: bool = False,
) -> tuple[dict[str, Column | PartialColumn | FeatureColumn], dict[str, float]]:
    """What each encoder reads, or what it (or its frozen part) says where that is constant; and the seconds each of the two took.

    Args:
        needs: what the fusion reads: vectors, sequences, or (`tokens`) a text encoder that is at work in every step.
        encoding: what runs the constant ones; None: whatever is fastest, in float32.
        fitted: a trained model reads the data, once: the preparations have learned already, and not from this data's train.
    """
    columns: dict[str, Column | PartialColumn | FeatureColumn] = {}
    seconds = {"prepare": 0.0, "encode": 0.0}
    for modality, encoder in encoders.items():
        start = time.perf_counter()
        column = prepare_column(data, modality, encoder, store, fitted)
        encoder.preparation = column.preparation
        seconds["prepare"] += time.perf_counter() - start
        start = time.perf_counter()
        if kept(encoder, needs):
            columns[modality] = encoded(store, column, encoder, device, needs != "vector", encoding)
        elif store.blocks and kept_in_part(encoder, needs):
            columns[modality] = partly_encoded(store, column, encoder, device, once=fitted)
        else:
            columns[modality] = column
        seconds["encode"] += time.perf_counter() - start
    data.leave_out_unusable()
    if not fitted:
        data.check_labelled()
    data.warn_of_losses({modality: column.present for modality, column in columns.items()})
    data.use(columns)
    return columns, seconds


def encoding_of(config: Mapping[str, Any]) -> Encoding:
    """What the configuration's `encode` says; runs of before there was one say nothing. Raises UserError."""
    return Encoding(**(config.get("encode") or {}))


def kept(encoder: Encoder, needs: str) -> bool:
    """Whether an encoder's features are computed once: not those of a text that is read together with other modalities."""
    return encoder.constant and not (needs == "tokens" and encoder.modality == "text")


def kept_in_part(encoder: Encoder, needs: str) -> bool:
    """Whether what an encoder's frozen first blocks give is computed once, with the same exception."""
    return encoder.constant_in_part and not (needs == "tokens" and encoder.modality == "text")


def prepare_column(data: MovieData, modality: str, encoder: Encoder, store: Store, fitted: bool = False) -> Column:
    """One modality as its encoder wants it; contents that cannot be used are named in the audit.

    Raises:
        UserError: no movie of a split has a content that can be used, unless the preparation is fitted.
    """
    contents, digests = data.contents(modality), data.digests[modality]
    try:
        with data.audited():
            column = prepared(store, modality, contents, digests, data.in_train, encoder.preparation, fitted)
    except NoneUsable as nothing:
        data.note_unusable(modality, nothing.bad)
        data.require(modality, np.array([content is not None for content in contents]) & ~data.in_train)
        raise
    data.note_unusable(modality, column.bad)
    if not fitted:
        data.require(modality, column.present)
    if isinstance(column.preparation, TablePreparation):
        note_cells(data, modality, column.preparation.columns(contents))
    return column


def build_model(
    config: Mapping[str, Any], data: MovieData, encoders: Mapping[str, Encoder], fitted: bool = False
) -> MovieGenreClassifier:
    """The model, its weights drawn from the seed alone.

    Args:
        fitted: a checkpoint replaces all weights, those of the loss too, so this data's train labels decide nothing.
    """
    torch.manual_seed(int(config["seed"]))
    for modality, encoder in encoders.items():
        if not isinstance(data.columns[modality], FeatureColumn):
            encoder.build()
    if "text" in encoders and not encoders["text"].wastes_padding:
        data.mix_lengths()
    fusion = build_fusion(config, encoders)
    optimizer = dict(config["optimizer"])
    trainer = config["trainer"]
    return MovieGenreClassifier(
        encoders=encoders,
        fusion=fusion,
        genres=len(data.vocabulary),
        loss=make(config["loss"], labels=np.ones_like(data.labels[:1]) if fitted else data.labels[data.in_train]),
        optimizer=lambda groups, **options: make(optimizer, params=groups, **options),
        scheduler=lambda optimizer, **options: make(config["scheduler"], optimizer=optimizer, **options),
        lr=float(optimizer.pop("lr")),
        weight_decay=float(optimizer.pop("weight_decay", 0.0)),
        total_steps=lambda: data.total_steps(int(trainer["max_epochs"]), int(trainer["accumulate_grad_batches"])),
        monitor=config["monitor"],
    )


def needs_of(config: Mapping[str, Any]) -> str:
    """What the fusion reads: `vector`, `sequence` or `tokens`."""
    return class_of(config["fusion"]).needs


def build_fusion(config: Mapping[str, Any], encoders: Mapping[str, Encoder]) -> Fusion:
    """The fusion over what the encoders give; one of sequences is told which of them have any."""
    sizes = {m: e.dim for m, e in encoders.items()}
    if needs_of(config) == "sequence":
        return make(config["fusion"], sizes=sizes, sequences=[m for m, e in encoders.items() if e.sequences])
    return make(config["fusion"], sizes=sizes)


def fit_normalisers(model: MovieGenreClassifier, data: MovieData, device: torch.device) -> None:
    """Means and deviations of every modality that is standardised, from train alone: over its tokens if the fusion reads them."""
    from gmu_lightning.encoders.normalise import Standardise

    for modality, normaliser in model.normalisers.items():
        if isinstance(normaliser, Standardise):
            column = data.columns[modality]
            rows = [n for n in data.rows("train").tolist() if column.present[n]]
            found = features_of(cast(Encoder, model.encoders[modality]), column, rows, device)
            needs = "vector" if modality == "text" and model.fusion.needs == "tokens" else model.fusion.needs
            normaliser.fit(_rows_of(features, needs) for features in found)


def _rows_of(features: Features, needs: str) -> torch.Tensor:
    if needs == "vector" or features.sequence is None:
        return features.vector
    return features.sequence.flatten(0, 1) if features.mask is None else features.sequence[features.mask]


def summary(model: MovieGenreClassifier, columns: Mapping[str, Any]) -> list[str]:
    """Encoders, fusion and head with their parameters, a line each."""

    def count(module: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()):,} parameters"

    lines = []
    for modality, module in model.encoders.items():
        encoder = cast(Encoder, module)
        cached = getattr(columns[modality], "parameters", None)
        how = "trained" if encoder.freeze == "none" else f"freeze={encoder.freeze}"
        if isinstance(columns[modality], PartialColumn):
            how += " (what these blocks give comes from the store)"
        size = count(encoder) if cached is None else f"{cached:,} parameters, {columns[modality].resident} from the store"
        lines.append(f"{modality}: {type(encoder).__name__}, {how}, {size}, {encoder.dim} numbers, normalise={encoder.normalise}")
    fusion = f"fusion: {type(model.fusion).__name__}, {count(model.fusion)}, {model.fusion.size} numbers"
    return [*lines, fusion, f"head: {type(model.head).__name__}, {count(model.head)}"]
