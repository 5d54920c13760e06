"""Hash the parts of a resolved configuration that a result depends on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gmu_lightning.files import digest
from gmu_lightning.movie import MODALITIES

# Keys without influence on a result: places of files, display of progress, start of jobs.
NOT_IDENTITY = (
    "hydra",
    "config_dir",
    "logger",
    "store.dir",
    "store.workers",
    "store.max_gb",  # of runs before gmu-store
    "encode.backend",
    "callbacks.profiler",  # of runs before trainer.profiler
    "check",
    "choices",
    "adopted.sources",  # files of predictions that were made elsewhere
    "data.root",
    "data.workers",
    "trainer.threads",
    "trainer.profiler",
    "trainer.progress",
    "trainer.save_every",
)
# Values under which a run computes the same as older runs, whose configurations lack the keys.
AS_BEFORE = {
    **{"store.precision": "float32", "store.blocks": True, "encode.precision": "float32", "trainer.val_check_interval": 1.0},
    **{"data.split": "published", "data.split_seed": None, "data.train_share": 1.0, "training._target_": "PlainTraining"},
    **{f"data.missing.{modality}": 0 for modality in MODALITIES},
    **dict.fromkeys(("encoder.text.lower", "encoder.text.fixed_length", "encoder.text.unit_length"), False),
    **{"encoder.text.prefix": "", "encoder.text.lora": None},
}
MISSING = "data.missing"  # without a rate, its splits and seed have no influence


def identity(config: Mapping[str, Any]) -> str:
    """Return the hash, 12 hexadecimal digits, of everything in a resolved configuration that a result depends on.

    It leaves out the data's content.
    """
    return digest(_essence(config))[:12]


def setting(config: Mapping[str, Any]) -> str:
    """Return the identity without the seed. Runs of one setting differ in their seed alone."""
    return digest({key: value for key, value in _essence(config).items() if key != "seed"})[:12]


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, value in `a`, value in `b`) of each setting that enters the identity and differs. None if absent."""
    one, other = _flat(_essence(a)), _flat(_essence(b))
    return [(name, one.get(name), other.get(name)) for name in {**one, **other} if one.get(name) != other.get(name)]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def run_slug(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> str:
    """Return fusion, modalities and seed as the name of a folder, for a resolved or an invalid configuration."""
    slug = f"{choices.get('fusion') or 'fusion'}-{config.get('modalities')}-seed{config.get('seed')}"
    return as_folder(slug)


def as_folder(words: str) -> str:
    """Return words as the name of a folder."""
    return re.sub(r"[^\w+.-]", "_", words)[:100]


def _essence(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the nested values that enter a hash. A class enters by its name alone, so that it may move to another module."""
    kept = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in NOT_IDENTITY:
            continue
        if name == MISSING and not (isinstance(value, Mapping) and any(value.get(modality) for modality in MODALITIES)):
            continue
        essence = _essence(value, f"{name}.") if isinstance(value, Mapping) else value
        if key == "_target_":
            essence = str(value).rpartition(".")[2]
        if name in AS_BEFORE and essence == AS_BEFORE[name]:
            continue
        if essence != {} or value == {}:  # a node whose keys are all left out counts as absent
            kept[key] = essence
    return kept
