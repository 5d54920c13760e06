"""A composed configuration -> the settled one: plain, pruned to the chosen modalities, nothing left to be decided.

Needs no torch, so that a run's identity is known before anything is imported or read.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from gmu_lightning.data.store import Store
from gmu_lightning.experiment.conf import node_of
from gmu_lightning.experiment.hardware import multiplies_bfloat16
from gmu_lightning.movie import MODALITIES, Senseless, UserError

FROZEN_EPOCHS, FINE_TUNING_EPOCHS = 25, 5
FINE_TUNING_TOKENS = 2048  # a padded batch, where a text encoder is trained
WARM_UP = 0.1
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true")  # Lightning's, and what else it takes:
SHORT_PRECISIONS = ("32", "bf16", "16", "64", "transformer-engine", "transformer-engine-float16")
SEEDS = 2**64  # torch takes as many
LEAST = {"trainer.max_epochs": 1, "trainer.accumulate_grad_batches": 1, "data.batch_size": 1, "data.workers": 0}


def settle(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The configuration of one run.

    Args:
        config: resolved, as plain containers, without Hydra's own node.
        choices: {config group: choice}.

    Raises:
        UserError: a modality is unknown or named twice, what counts something (the seed, epochs, ...) is no such number, or
            the store is asked for what there is not.
        Senseless: a modality has no encoder.
    """
    settled = deepcopy(dict(config))
    _check_seeds(settled)
    _refuse_endless(settled)
    if not str(settled["monitor"]).startswith("val/"):
        raise UserError(f"monitor={settled['monitor']} is no score of the val split: give one like val/ap_micro")
    chosen = modalities_of(str(settled["modalities"]))
    encoders = settled.get("encoder") or {}
    for modality in chosen:
        if modality not in encoders:
            raise Senseless(
                f"modalities={settled['modalities']} names {modality}, which has no encoder: choose among {', '.join(encoders)}"
            )
    settled["fusion"] = _own_options(settled.get("fusion") or {}, choices)
    settled["encoder"] = {m: _settled_encoder(dict(encoders[m]), m) for m in chosen}
    tuned = fine_tuned(settled)
    _fill(settled["scheduler"], share=WARM_UP if tuned else 0.0, decay="linear" if tuned else "constant")
    _fill(
        settled["trainer"],
        max_epochs=FINE_TUNING_EPOCHS if tuned else FROZEN_EPOCHS,
        gradient_clip_val=1.0 if tuned else None,
        precision="bf16-mixed" if tuned == ["text"] and multiplies_bfloat16(settled["trainer"]["accelerator"]) else "32-true",
    )
    _fill(settled["data"], token_budget=FINE_TUNING_TOKENS if "text" in tuned else None)
    _check_numbers(settled)
    keep = [f"encoder/{m}" for m in chosen]
    settled["choices"] = {
        group: choice
        for group, choice in choices.items()
        if choice is not None and not group.startswith("hydra/") and (not group.startswith("encoder/") or group in keep)
    }
    return settled


def _own_options(fusion: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the fusion's options without those that a preset sets for its own fusion and that the chosen one lacks."""
    own, preset = node_of("fusion", choices.get("fusion")), node_of("experiment", choices.get("experiment"))
    foreign = {key for key in preset.get("fusion", {}) if own and key not in own}
    return {key: value for key, value in fusion.items() if key not in foreign}


def _check_seeds(settled: Mapping[str, Any]) -> None:
    seeds = {"seed": settled["seed"], "data.seed": settled["data"].get("seed", 0)}
    for name, seed in seeds.items():
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < SEEDS:
            raise UserError(f"{name}={seed} is no seed: give a whole number from 0 on and below 2^64, such as {name}=1")


def _refuse_endless(node: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse infinity and NaN in every value. Raises UserError."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            _refuse_endless(value, f"{prefix}{key}.")
        elif any(isinstance(part, float) and not math.isfinite(part) for part in (value if isinstance(value, list) else [value])):
            raise UserError(f"{prefix}{key}={value} is no finite number: give one, or leave {prefix}{key} at its default")


def modalities_of(word: str) -> tuple[str, ...]:
    """`text+image` -> ("text", "image"): the order is the hierarchical gate's."""
    names = tuple(word.split("+"))
    for name in names:
        if name not in MODALITIES:
            raise UserError(f"modalities={word} names '{name}', which is no modality: {near(name, MODALITIES)}, joined by +")
    if len(set(names)) < len(names):
        raise UserError(f"modalities={word} names a modality twice: each stands once, joined by +")
    return names


def near(word: str, names: Iterable[str]) -> str:
    """`did you mean a? Valid: a, b, c`"""
    names = list(names)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    valid = f"valid are {', '.join(names)}"
    return f"did you mean {' or '.join(close)}? {valid}" if close else valid


def _settled_encoder(encoder: dict[str, Any], modality: str) -> dict[str, Any]:
    freeze = str(encoder["freeze"])
    if freeze not in ("all", "none") and not freeze.isdecimal():
        raise UserError(
            f"encoder.{modality}.freeze={freeze} is none of all, none and a number of first layers: choose one of them"
        )
    encoder["freeze"] = int(freeze) if freeze.isdecimal() else freeze
    trained = _is_trained(encoder)
    _fill(encoder, normalise="layer" if trained else "standardise", dropout=0.0 if trained else 0.5)
    return encoder


def _check_numbers(settled: Mapping[str, Any]) -> None:
    for name, least in LEAST.items():
        group, key = name.split(".")
        value = settled[group][key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name}={value} is no such number: give a whole number from {least} on")
    threads = settled["trainer"].get("threads")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UserError(f"trainer.threads={threads} is no such number: give a whole number from 1 on, or null for all cores")
    budget = settled["data"].get("token_budget")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 1):
        raise UserError(f"data.token_budget={budget} is no number of tokens: give a whole number from 1 on, or null for none")
    most = settled["trainer"].get("gradient_clip_val")
    if most is not None and (not isinstance(most, int | float) or isinstance(most, bool) or most < 0):
        raise UserError(f"trainer.gradient_clip_val={most} is no norm: give a number from 0 on, or null to clip nothing")
    precision = str(settled["trainer"]["precision"])
    if precision not in (*PRECISIONS, *SHORT_PRECISIONS):
        raise UserError(f"trainer.precision={precision} is none that Lightning knows: {near(precision, PRECISIONS)}")
    for option in ("bias", "hidden", "gate", "tied"):
        if not isinstance(settled.get("fusion", {}).get(option, False), bool):
            raise UserError(f"fusion.{option}={settled['fusion'][option]} is neither true nor false: give one of them")
    if "store" in settled:
        Store.of(settled["store"], read_only=True)
    rate = settled["optimizer"]["lr"]
    if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 0:
        raise UserError(f"optimizer.lr={rate} is no learning rate: give a number from 0 on, such as optimizer.lr=1e-3")


def fine_tuned(settled: Mapping[str, Any]) -> list[str]:
    """The modalities whose pretrained encoder is trained in any part: it brings a rate of its own for that."""
    return [m for m, e in settled["encoder"].items() if _is_trained(e) and e.get("lr") is not None]


def _is_trained(encoder: Mapping[str, Any]) -> bool:
    return encoder["freeze"] != "all" or encoder.get("unfreeze_at_epoch") is not None


def _fill(node: dict[str, Any], **values: Any) -> None:
    for key, value in values.items():
        if node.get(key) == "auto":
            node[key] = value


def words(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> str:
    """What a run is, in words that can name a folder, settled or not."""
    said = f"{choices.get('fusion') or 'fusion'}-{config['modalities']}-seed{config['seed']}"
    return re.sub(r"[^\w+.-]", "_", said)[:100]
