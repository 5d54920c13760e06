"""Find the configuration groups on disk, and check which classes a stranger's configuration names."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gmu_lightning.config import packages
from gmu_lightning.config.classes import class_of, own_class
from gmu_lightning.config.hydra_versions import register_resolver
from gmu_lightning.config.packages import Source
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


def folders(config_dir: str | None = None) -> list[Path]:
    """Return the folders of choices, in the order in which Hydra looks into them.

    They are this package's folder, those of installed packages and of `hydra.searchpath`, and `config_dir`.
    """
    own = [Path(config_dir)] if config_dir else []
    return [conf_folder(), *(source.folder for source in packages.sources()), *own]


@cache
def groups() -> tuple[str, ...]:
    """Return the sorted names of all groups, such as `encoder/text`. Other folders of choices add choices to these."""
    conf = conf_folder()
    return tuple(sorted({path.parent.relative_to(conf).as_posix() for path in conf.glob("*/**/*.yaml")}))


def files_of_choices(folder: Path) -> list[Path]:
    """Return the YAML files of all groups in a folder of choices. Other files in it are ignored."""
    return [path for group in groups() for path in sorted((folder / group).glob("*.yaml"))]


def choices_of(group: str, config_dir: str | None = None) -> list[str]:
    """Return the sorted choices of a group such as `encoder/text`: the names of its YAML files, without `.yaml`.

    Files whose names begin with `_` are bases, and are left out. A group that does not exist has no choices.

    Args:
        group: a path below a folder of choices.
        config_dir: the folder of the user's own choices, which count too.
    """
    return sorted({path.stem for folder in folders(config_dir) for path in (folder / group).glob("[!_]*.yaml")})


def file_of(name: str, config_dir: str | None = None) -> Path | None:
    """Return the YAML file that Hydra reads for a name such as `fusion/mean`; None if no folder of choices has it."""
    return next((path for folder in folders(config_dir) if (path := folder / f"{name}.yaml").is_file()), None)


def node_of(group: str, choice: str | None, config_dir: str | None = None) -> Mapping[str, Any]:
    """Return the content of a choice's YAML file, with its list `defaults` as written.

    Return {} if no folder of choices has such a file, or if `choice` is None. The result is cached, so do not change it.

    Raises:
        UserError: the file is no valid YAML.
    """
    path = file_of(f"{group}/{choice}", config_dir)
    return read_yaml(path) if path else {}


@cache
def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the content of a YAML file with a mapping, or {} for an empty one. The result is cached, so do not change it.

    Raises:
        UserError: it is no valid YAML, or holds no mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            found = yaml.safe_load(file) or {}
    except yaml.MarkedYAMLError as error:
        raise UserError(yaml_problem(error, path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{_of_owner(path)} is no text of valid YAML ({error}): write the file anew, in UTF-8") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{_of_owner(path)} holds a {type(found).__name__}: write keys and values, as KEY: VALUE")
    return found


def yaml_problem(error: yaml.MarkedYAMLError, path: Path) -> str:
    """Return the sentence on an error of syntax in a YAML file."""
    line = f"line {error.problem_mark.line + 1} of " if error.problem_mark else ""
    return f"{line}{_of_owner(path)} is no valid YAML ({error.problem}): mend it, or the lines before it"


def _of_owner(path: Path) -> str:
    """Return a path for a sentence, with the package that installed the file."""
    owner = packages.owner_of(path)
    return f"{path} of {owner}" if owner else str(path)


def refuse_broken_packages() -> None:
    """Raise UserError if an installed package offers choices that cannot be read."""
    for problem in package_problems():
        raise UserError(problem)


def package_problems() -> Iterator[str]:
    """Yield a sentence for each installed package whose folder of choices is missing, has no choice, or holds a name in use."""
    earlier = [Source("this package", conf_folder())]
    for package in packages.installed():
        declares = f"the package {package.name} declares the entry point {packages.GROUP}: {package.declared}"
        remove = f"type pip uninstall {package.name}"
        if package.source is None:
            yield f"{declares}, and that folder does not exist: correct the entry point, or {remove}"
            continue
        if not files_of_choices(package.source.folder):
            yield (
                f"{declares}, and {package.folder} holds no choice such as fusion/NAME.yaml: add the YAML files to the package's "
                f"wheel and install it again, or {remove}"
            )
        if hidden := _hidden(package.source, earlier):
            yield f"{hidden}: rename the file in {package.name}, or {remove}"
        earlier.append(package.source)


def _hidden(source: Source, earlier: Sequence[Source]) -> str | None:
    """Return a clause on the first file of a folder that Hydra never reads, because an earlier folder has one of its name.

    Return None without such a file. Files of equal content are allowed.
    """
    for other in earlier:
        for path in (*sorted(other.folder.glob("*.yaml")), *files_of_choices(other.folder)):
            name = path.relative_to(other.folder)
            own = source.folder / name
            if own.is_file() and own.read_bytes() != path.read_bytes():
                return f"{own} would not be read, for {other.owner} has {name} too"
    return None


def import_from(folder: str, option: str = "--config-dir", config_dir: str | None = None) -> None:
    """Let Python import modules from a folder that the user typed, before all others.

    Args:
        folder: absolute.
        option: that names it, for errors.
        config_dir: the folder of `--config-dir`, if `folder` is another.

    Raises:
        UserError: it is no folder, or holds a file that Hydra would never read, since an earlier folder has one of that name.
    """
    own = Path(folder)
    if not own.is_dir():
        raise UserError(f"{option}={own} is no folder: give the folder that holds your YAML files and your modules")
    earlier = [Source("this package", conf_folder()), *packages.sources()]
    earlier += [Source(f"--config-dir={config_dir}", Path(config_dir))] if config_dir else []
    if hidden := _hidden(Source(option, own), [one for one in earlier if not one.folder.samefile(own)]):
        raise UserError(f"{hidden}: give your file another name")
    sys.path.insert(0, folder)


_trusted: list[str] = []  # of the command that is running, the latest last


@contextmanager
def trusting(names: Sequence[str]) -> Iterator[None]:
    """Accept these classes in the configurations of strangers within the context.

    Args:
        names: exact dotted names, as the user typed them.

    Raises:
        UserError: one of them is no dotted name.
    """
    for name in names:
        if "." not in name or not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"trust={name} names no class: give its dotted name, such as trust=my_fusions.MyFusion")
    _trusted.extend(names)
    try:
        yield
    finally:
        del _trusted[len(_trusted) - len(names) :]


def _is_trusted(target: Any) -> bool:
    """Return whether the user typed the exact name of a class. Raises UserError if it cannot be imported, or is no class."""
    if target not in _trusted:
        return False
    if not isinstance(class_of(target), type):
        raise UserError(f"trust={target} names a {type(class_of(target)).__name__} and no class: give the name of a class")
    return True


def checked_as_data(config: Mapping[str, Any], where: Path, config_dir: str | None = None) -> dict[str, Any]:
    """Return a copy of a stranger's configuration in which every `_target_` is the present name of a class of our groups.

    Only the last part of the name of a class of this package counts, since the class may have moved to another module. Classes
    that the command line names (`trusting`) are accepted too.

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
            if isinstance(node, str) and (_is_trusted(node) or (config_dir and own_class(node, config_dir))):
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
    known = isinstance(recorded, str)
    trained = f" (the run was trained with --config-dir {shlex.quote(recorded)})" if isinstance(recorded, str) else ""
    install = "" if known else "install its package, or "
    return (
        f"{where} names the class {target}, which is not one of this package's choices: it is not read, unless you trust the "
        f"class and {install}type trust=MODULE.CLASS or --config-dir FOLDER, the folder of its module{trained}"
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


def known_targets() -> frozenset[str]:
    """Return the dotted name in every `_target_` of every choice of a group, in this package's folder and in the `sources`.

    Files that are no valid YAML name no class.
    """
    return _targets_in(tuple(folders()))


@cache
def _targets_in(of: tuple[Path, ...]) -> frozenset[str]:
    found: set[str] = set()
    for path in (path for folder in of for path in files_of_choices(folder)):
        with suppress(UserError):  # the command that chooses the file reports the error
            found |= {value for key, value in _values(read_yaml(path)) if key == "_target_" and isinstance(value, str)}
    return frozenset(found)


def _values(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value at every depth with its key, containers too. Entries of a list have the list's key."""
    yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _values(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)
