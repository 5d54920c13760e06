"""Train the configuration of an earlier run again: `rerun=RUN`. Its config.yaml is read as data, and no code in it is run.

The other arguments of the command change it. Logger, store and display are those of the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from gmu_lightning.config.groups import checked_as_data, choices_of, groups
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.run_files import records

if TYPE_CHECKING:
    from gmu_lightning.sweep.session import Session

KEY = "rerun"
# Parts that the run decides.
PARTS = (
    *("data", "encoder", "fusion", "loss", "optimizer", "scheduler", "training", "trainer", "callbacks", "encode"),
    *("modalities", "seed", "monitor"),
)
ABSENT = object()
DISPLAY = ("progress", "profiler")  # keys of the trainer that belong to the command


def with_choices(arguments: Sequence[str], session: Session) -> list[str]:
    """Return the arguments of a command, and before `rerun=RUN` the choices of that run for groups that are not typed.

    Hydra needs the choices, because an argument such as `fusion.rank=4` changes a key that only some fusions have.

    Args:
        arguments: as Hydra reads them.
        session: learns which arguments were added.

    Raises:
        UserError: the folder holds no sound run, or `experiment=` is typed too.
    """
    again = next((word for word in arguments if word.startswith(f"{KEY}=")), None)
    if again is None or again == f"{KEY}=null":
        return list(arguments)
    folder = Path(session.typed.get(again, again).removeprefix(f"{KEY}=")).expanduser()
    typed = {word.lstrip("+~").partition("=")[0] for word in arguments}
    if "experiment" in typed:
        raise UserError(f"{KEY}={folder} and experiment= both choose every part of a run: leave one of them out")
    found = _written(Run(folder))
    chosen = {group: choice for group, choice in _choices(found).items() if choice in choices_of(group, session.config_dir)}
    chosen |= {key: str(found[key]) for key in ("modalities", "seed")}
    session.added = [f"{key}={value}" for key, value in chosen.items() if key not in typed]
    return [*session.added, again, *(word for word in arguments if word != again)]


def again(
    config: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Iterable[str], folder: Path, config_dir: str | None
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return the configuration of the run that `rerun` names, changed by the overrides, and its {config group: choice}.

    Args:
        config: as composed from the overrides. Parts and values that they name are taken from it.
        choices: {config group: choice} of it.
        overrides: those before `rerun=RUN` are choices of the run, and change nothing.
        folder: in which the command was typed.
        config_dir: a folder whose classes the run may name; None accepts the package's classes alone.

    Raises:
        UserError: the folder holds no sound run, the run names another class, or its data are gone.
    """
    run = Run(folder / str(config[KEY]))
    found = checked(run, config_dir)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    typed = parsed[next(n for n, one in enumerate(parsed) if one.key_or_group == KEY) + 1 :]
    kept: dict[str, Any] = {key: found[key] for key in PARTS if key in found}
    kept["encoder"] = {**config["encoder"], **kept["encoder"]}
    kept["trainer"] = {**kept["trainer"], **{key: config["trainer"][key] for key in DISPLAY if key in config["trainer"]}}
    if kept["trainer"].get("threads") is None:
        kept["trainer"]["threads"] = config["trainer"].get("threads")
    changed = sorted((one.key_or_group for one in typed), key=lambda key: key not in groups())  # groups first
    for key in changed:
        place = key.split("/" if key in groups() else ".")
        if place[0] in PARTS:
            _copy(config, kept, place)
    if "data.root" not in changed:
        records.check_root(kept, run / "config.yaml")
    own = {group: choice for group, choice in _choices(found).items() if group not in changed}
    return {**config, **kept}, {**choices, **own}


def checked(run: Run, config_dir: str | None) -> dict[str, Any]:
    """Return the configuration of a run, whose classes are all known. Raises UserError; see `again`."""
    return checked_as_data(_written(run), run / "config.yaml", config_dir)


def _written(run: Run) -> dict[str, Any]:
    """Return the content of a run's config.yaml. Raises UserError if the folder holds none that is sound."""
    found = run.config
    records.check_config(found, run / "config.yaml", records.EVALUATED)
    return found


def _choices(found: Mapping[str, Any]) -> dict[str, str]:
    """Return {config group: choice} of the parts that a run decides."""
    chosen = found.get("choices") or {}
    return {
        group: choice
        for group, choice in chosen.items()
        if group in groups() and group.partition("/")[0] in PARTS and isinstance(choice, str)
    }


def _copy(source: Mapping[str, Any], target: dict[str, Any], place: Sequence[str]) -> None:
    """Copy the value at a place into nested mappings. Remove it there if the source has none."""
    value: Any = source
    for name in place:
        value = value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT
    node = target
    for name in place[:-1]:
        node[name] = dict(node[name]) if isinstance(node.get(name), Mapping) else {}
        node = node[name]
    if value is ABSENT:
        node.pop(place[-1], None)
    else:
        node[place[-1]] = deepcopy(value)
