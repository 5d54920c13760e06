"""Resolve a composed configuration: keep the chosen modalities, and replace every `auto`.

The module imports neither torch nor pydantic, so that a run's identity is known early.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from gmu_lightning.config.checks import near
from gmu_lightning.config.groups import choices_of, node_of
from gmu_lightning.config.hardware import multiplies_bfloat16
from gmu_lightning.movie import MODALITIES, SPLITS, UNKNOWN, IncompatibleChoices, UserError

FROZEN_EPOCHS, TOKEN_EPOCHS, FINE_TUNING_EPOCHS = 25, 12, 5  # for frozen vectors, frozen tokens, a fine-tuned encoder
FINE_TUNING_TOKENS = 2048  # of a padded batch, if a text encoder is fine-tuned
WARM_UP = 0.1
VECTOR_DROPOUT, TOKEN_DROPOUT = 0.5, 0.25  # of frozen features; fusions that read tokens apply dropout again in every layer
FINE_TUNING_RATE, ADAPTERS_RATE = 3e-5, 3e-4  # of a text encoder trained in whole or in part, and of adapters beside it
SEQUENCES = ("text", "video", "audio")
LOSSES = {"multilabel": "bce", "multiclass": "cross_entropy"}  # of loss=auto
NOT_OF_A_RUN = ("rerun", "retry", "trust")  # keys of the command, whose effect is in the other keys
GROUPS = ("data", "fusion", "loss", "optimizer", "scheduler", "training", "trainer")


def resolve(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the resolved configuration of one run; `RunConfig.of` checks its values.

    Args:
        config: as composed, plain containers without interpolations and without Hydra's own node. `config_dir` is the user's
            folder of choices, if there is one.
        choices: {config group: choice}.

    Raises:
        UserError: a group is not a mapping, a modality is unknown or named twice, or loss=auto gets an option of another loss.
        IncompatibleChoices: a modality has no encoder.
    """
    resolved = {key: value for key, value in deepcopy(dict(config)).items() if key not in NOT_OF_A_RUN}
    for group in GROUPS:
        _check_group(resolved.get(group), group)
    chosen = modalities_of(str(resolved["modalities"]))
    encoders = resolved.get("encoder") or {}
    _check_group(encoders, "encoder")
    for modality in chosen:
        if modality not in encoders:
            raise IncompatibleChoices(
                f"modalities={resolved['modalities']} names {modality}, which has no encoder: choose among {', '.join(encoders)}"
            )
        _check_group(encoders[modality], f"encoder/{modality}")
    resolved["fusion"] = _own_options(resolved["fusion"], choices, resolved.get("config_dir"))
    transformers = "lr_scale" in resolved["fusion"]  # only fusions that train transformers have this option
    rates = {m: TOKEN_DROPOUT if transformers and m in SEQUENCES else VECTOR_DROPOUT for m in chosen}
    resolved["encoder"] = {m: _resolved_encoder(dict(encoders[m]), rates[m]) for m in chosen}
    tuned = fine_tuned(resolved["encoder"])
    short = tuned == ["text"] and multiplies_bfloat16(str(resolved["trainer"].get("accelerator")))
    warms_up = transformers or bool(tuned)
    _fill(resolved["scheduler"], share=WARM_UP if warms_up else 0.0, decay="linear" if warms_up else "constant")
    _fill(
        resolved["trainer"],
        max_epochs=FINE_TUNING_EPOCHS if tuned else TOKEN_EPOCHS if transformers else FROZEN_EPOCHS,
        gradient_clip_val=1.0 if tuned else None,
        precision="bf16-mixed" if short else "32-true",
    )
    _fill(resolved["data"], token_budget=FINE_TUNING_TOKENS if "text" in tuned else None)
    _resolve_draws(resolved["data"])
    if choices.get("loss") == "auto":
        loss = LOSSES.get(resolved["data"].get("task", "multilabel"), "bce")  # `RunConfig.of` refuses any other task
        resolved["loss"], choices = _resolved_loss(resolved["loss"], loss), {**choices, "loss": loss}
    keep = [f"encoder/{m}" for m in chosen]
    resolved["choices"] = {
        group: choice
        for group, choice in choices.items()
        if choice is not None and not group.startswith("hydra/") and (not group.startswith("encoder/") or group in keep)
    }
    return resolved


def _resolve_draws(data: dict[str, Any]) -> None:
    """Set the seed of a random split, and none for the published one. Put the splits of `data.missing` into their order."""
    seed = data.get("split_seed")
    if data.get("split") == "published" and isinstance(seed, int) and seed >= 0:  # any other value is an error
        data["split_seed"] = None
    if data.get("split") == "random" and data.get("split_seed") is None:
        data["split_seed"] = data.get("seed", 0)
    missing = data.get("missing")
    if not isinstance(missing, Mapping):
        return
    splits = missing.get("splits")
    if isinstance(splits, list) and all(split in SPLITS for split in splits):
        data["missing"] = {**missing, "splits": sorted(splits, key=SPLITS.index)}


def _check_group(node: Any, group: str) -> None:
    if not isinstance(node, Mapping):
        shown = "null" if node is None else node
        raise UserError(f"{group}={shown} chooses nothing: {near(str(shown), choices_of(group))}")


def _own_options(fusion: Mapping[str, Any], choices: Mapping[str, str | None], config_dir: str | None) -> dict[str, Any]:
    """Return the fusion's options without those that a preset sets for its own fusion and the chosen one lacks."""
    own, preset = (node_of(group, choices.get(group), config_dir) for group in ("fusion", "experiment"))
    foreign = {key for key in preset.get("fusion", {}) if own and key not in own and "defaults" not in own}
    return {key: value for key, value in fusion.items() if key not in foreign}


def _resolved_loss(auto: dict[str, Any], choice: str) -> dict[str, Any]:
    """Return the node of the loss that `loss=auto` stands for. Raises UserError if it would lose an option of `auto`."""
    if auto["_target_"] == node_of("loss", choice)["_target_"]:
        return auto
    for key, value in auto.items():
        if value != node_of("loss", "auto").get(key):
            raise UserError(
                f"loss.{key}={value} is an option of loss=bce, and data.task=multiclass trains loss=cross_entropy: "
                "leave it out, or choose loss=cross_entropy with its own options"
            )
    return dict(node_of("loss", choice))


def modalities_of(word: str) -> tuple[str, ...]:
    """Return the names in a word such as `text+image`, in its order. Raises UserError for an unknown or repeated name."""
    names = tuple(word.split("+"))
    for name in names:
        if name not in MODALITIES:
            raise UserError(f"modalities={word} names '{name}', which is no modality: {near(name, MODALITIES)}, joined by +")
    if len(set(names)) < len(names):
        raise UserError(f"modalities={word} names a modality twice: each stands once, joined by +")
    return names


def known_modalities(word: str) -> tuple[str, ...]:
    """Return the names in a word, as `modalities_of` does, or () for `unknown`, which adopted predictions may have."""
    return () if word == UNKNOWN else modalities_of(word)


def _resolved_encoder(encoder: dict[str, Any], frozen_dropout: float) -> dict[str, Any]:
    freeze = encoder.get("freeze")
    if isinstance(freeze, str) and freeze.isascii() and freeze.isdecimal():
        encoder["freeze"] = int(freeze)
    trained = _is_trained(encoder)
    if encoder.get("lora") == 0:
        encoder["lora"] = None
    rate = ADAPTERS_RATE if encoder.get("lora") else FINE_TUNING_RATE
    _fill(encoder, normalise="layer" if trained else "standardise", dropout=0.0 if trained else frozen_dropout, lr=rate)
    return encoder


def fine_tuned(encoders: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the modalities whose pretrained encoder, known by a learning rate of its own, is trained at least in part."""
    return [m for m, e in encoders.items() if _is_trained(e) and e.get("lr") is not None]


def _is_trained(encoder: Mapping[str, Any]) -> bool:
    trained = encoder.get("freeze") != "all" or encoder.get("unfreeze_at_epoch") is not None
    return trained or bool(encoder.get("lora"))


def _fill(node: dict[str, Any], **values: Any) -> None:
    for key, value in values.items():
        if node.get(key) == "auto":
            node[key] = value
