"""Find the configuration groups on disk, and check which classes a stranger's configuration names."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gmu_lightning.config.classes import own_class
from gmu_lightning.config.hydra_versions import register_resolver
from gmu_lightning.movie import UserError

# {name of a class in older runs: its present name}.
RENAMED = {
    "MMIMDb": "MMIMDbDataModule",
    "Moviescope": "MoviescopeDataModule",
    "Planted": "PlantedDataModule",
    "Alone": "SingleModality",
}


def conf_folder() -> Path:
    """Return the folder of the groups: beside the package in a checkout, inside it if installed. Raises UserError if absent."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").exists():
            return folder
    raise UserError(f"{package} is installed without its conf folder: install it again from the wheel")


def wandb_mode() -> str:
    """Return W&B's mode: `WANDB_MODE` in lower case, else `disabled` if `WANDB_DISABLED` is true, else `online`.

    The older names `dryrun` and `run` become `offline` and `online`. Any other value is returned as it is.
    """
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    disabled = os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on")
    return {"dryrun": "offline", "run": "online"}.get(mode, mode) or ("disabled" if disabled else "online")


register_resolver("wandb_mode", wandb_mode)


def choices_of(group: str, config_dir: str | None = None) -> list[str]:
    """Return the sorted choices of a group such as `encoder/text`: the names of its YAML files, without `.yaml`.

    Files whose names begin with `_` are bases, and are left out. A group that does not exist has no choices.

    Args:
        group: a path below the folder of the groups.
        config_dir: the folder of the user's own choices, which count too.
    """
    folders = [conf_folder(), *([Path(config_dir)] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("[!_]*.yaml")})


@cache
def node_of(group: str, choice: str | None, config_dir: str | None = None) -> Mapping[str, Any]:
    """Return the content of a choice's YAML file, with its list `defaults` as written.

    Return {} if neither this package nor the user's folder `config_dir` has such a file, or if `choice` is None. The result is
    cached, so do not change it.
    """
    folders = [conf_folder(), *([Path(config_dir)] if config_dir else [])]
    path = next((path for folder in folders if (path := folder / group / f"{choice}.yaml").is_file()), None)
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path else {}


def import_from(config_dir: str) -> None:
    """Let Python import modules from the folder of `--config-dir`, before all others.

    Raises:
        UserError: it is no folder, or holds a file that Hydra would never read, since this package has one of that name.
    """
    own = Path(config_dir)
    if not own.is_dir():
        raise UserError(f"--config-dir={own} is no folder: give the folder that holds your YAML files and your modules")
    for ours in conf_folder().rglob("*.yaml"):
        name = ours.relative_to(conf_folder())
        if (own / name).is_file() and (own / name).read_bytes() != ours.read_bytes():
            raise UserError(f"{own / name} would not be read, for this package has {name} too: give your file another name")
    sys.path.insert(0, config_dir)


def checked_as_data(config: Mapping[str, Any], where: Path, config_dir: str | None = None) -> dict[str, Any]:
    """Return a copy of a stranger's configuration in which every `_target_` is the present name of a class of our groups.

    Only the last part of the name of a class of this package counts, since the class may have moved to another module.

    Args:
        config: the content of the file.
        where: path of the file, for errors.
        config_dir: a folder that the user trusts. Classes that its modules define are accepted, and are imported.

    Raises:
        UserError: a `_target_` names any other class, a text holds `${`, or `config` has the key `hydra`.
    """
    if "hydra" in config:
        raise UserError(f"{where} holds a hydra node, which no run writes: it is not read")

    def checked(node: Any, key: str = "") -> Any:
        if key == "_target_":
            if known := known_target(node):
                return known
            if isinstance(node, str) and config_dir and own_class(node, config_dir):
                return node
            raise UserError(_refusal(config, where, node, config_dir))
        if isinstance(node, str) and "${" in node:
            raise UserError(f"{where} holds the interpolation {node}, which no run writes: it is not read")
        if isinstance(node, Mapping):
            return {name: checked(value, str(name)) for name, value in node.items()}
        return [checked(value, key) for value in node] if isinstance(node, list) else node

    return checked(config)


def _refusal(config: Mapping[str, Any], where: Path, target: Any, config_dir: str | None) -> str:
    """Return the sentence that refuses a class, with the option that accepts a class of the user."""
    if config_dir:
        return (
            f"{where} names the class {target}, which is not one of this package's choices and is not defined in a module of "
            f"--config-dir {config_dir}: it is not read"
        )
    recorded = config.get("config_dir")
    trained = f" (the run was trained with --config-dir {shlex.quote(recorded)})" if isinstance(recorded, str) else ""
    return (
        f"{where} names the class {target}, which is not one of this package's choices: it is not read, unless you trust the "
        f"class and type --config-dir FOLDER, the folder of its module{trained}"
    )


def known_target(target: Any) -> str | None:
    """Return the present dotted name of the class that `target` names, or None if no group names it, or it is no text.

    A class of this package is found by its last name, under any former module.
    """
    if not isinstance(target, str) or target in known_targets():
        return target if isinstance(target, str) else None
    package, _, name = target.rpartition(".")
    name = RENAMED.get(name, name)
    ours = [known for known in known_targets() if known.startswith("gmu_lightning.") and known.endswith(f".{name}")]
    return ours[0] if ours and package.startswith("gmu_lightning.") else None


@cache
def known_targets() -> frozenset[str]:
    """Return the dotted name in every `_target_` of every YAML file in the conf folder, also those of other packages."""
    nodes = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in conf_folder().rglob("*.yaml"))
    return frozenset(value for node in nodes for key, value in _values(node) if key == "_target_")


def _values(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value at every depth with its key, containers too. Entries of a list have the list's key."""
    yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _values(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)
