"""The parts of a run's configuration that say which movies it saw: its split, its share of train, its missing modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmu_lightning.config.identity import setting
from gmu_lightning.movie import MODALITIES

SHARE = "data.train_share"
MISSING = "data.missing"
KEYS = ("data.split", "data.split_seed")
REDRAWN = ("published", "random")  # values of data.split with equal sizes; every other value is part of the setting


def split_of(config: Mapping[str, Any]) -> str:
    """Return the name of a run's split, such as `published` or `random 3`."""
    data = config.get("data") or {}
    split, seed = data.get("split") or "published", data.get("split_seed")
    if seed is None and split == "random":
        seed = data.get("seed")
    return str(split) if seed is None or split == "published" else f"random {seed}"


def without_split(config: Mapping[str, Any]) -> str:
    """Return the hash of a run's setting without its split: runs with the same hash differ in seed and split alone."""
    data = dict(config.get("data") or {})
    data.pop("split_seed", None)
    if (data.get("split") or "published") in REDRAWN:
        data.pop("split", None)
    return setting({**config, "data": data})


def order(name: str) -> tuple[bool, int, str]:
    """Return the key by which names of splits are sorted: the published one first, then random ones by their number."""
    kind, _, number = name.rpartition(" ")
    return (True, int(number), "") if kind == "random" and number.lstrip("-").isdecimal() else (False, 0, name)


def amounts(config: Mapping[str, Any]) -> dict[str, float]:
    """Return {option: value} of the share of train, and of every rate of missing modalities that is above 0."""
    data = config.get("data") or {}
    missing = data.get("missing")
    rates = {f"{MISSING}.{m}": _number(missing.get(m), 0.0) for m in MODALITIES} if isinstance(missing, Mapping) else {}
    return {SHARE: _number(data.get("train_share"), 1.0)} | {option: rate for option, rate in rates.items() if rate}


def _number(value: Any, otherwise: float) -> float:
    """Return a number as typed; `otherwise` for any other value, which a data set of one's own may have."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
