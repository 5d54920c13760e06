"""The configuration groups on disk, and which classes they may name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from gmu_lightning.movie import UserError


def conf_folder() -> Path:
    """Where the groups are: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").exists():
            return folder
    raise UserError(f"{package} is installed without its conf folder: install it again from the wheel")


def wandb_mode() -> str:
    """Return the mode that the environment asks W&B for, `online` where it asks for none. Older words have their new ones."""
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    disabled = os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on")
    return {"dryrun": "offline", "run": "online"}.get(mode, mode) or ("disabled" if disabled else "online")


OmegaConf.register_new_resolver("wandb_mode", wandb_mode, replace=True)


def choices_of(group: str) -> list[str]:
    """The YAMLs of a group."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


@cache
def node_of(group: str, choice: str | None) -> Mapping[str, Any]:
    """Return what a YAML of our own groups holds, without its defaults composed; nothing where there is no such file."""
    path = conf_folder() / group / f"{choice}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}


def checked_as_data(config: Mapping[str, Any], where: Path) -> None:
    """A stranger's configuration is data: it may name the classes that our own groups name, and nothing else.

    Raises:
        UserError: another class, an interpolation, or a node that is Hydra's.
    """
    if "hydra" in config:
        raise UserError(f"{where} holds a hydra node, which no run writes: it is not read")
    for key, value in _values(config):
        if key == "_target_" and not (isinstance(value, str) and value in known_targets()):
            raise UserError(f"{where} names the class {value}, which is not one of this package's choices: it is not read")
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{where} holds the interpolation {value}, which no run writes: it is not read")


@cache
def known_targets() -> frozenset[str]:
    """Every `_target_` of every group."""
    nodes = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in conf_folder().rglob("*.yaml"))
    return frozenset(value for node in nodes for key, value in _values(node) if key == "_target_")


def _values(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value at every depth, containers too, with the key it stands under (an entry of a list: the list's)."""
    yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _values(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)
