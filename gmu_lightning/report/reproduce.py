"""Commands that train a setting again or with more seeds, from any folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.report.discovery import is_sweep
from gmu_lightning.report.search import trial_seed
from gmu_lightning.report.settings import Setting
from gmu_lightning.run import Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import is_there

NOT_A_SETTING = ("seed=", "sweep=")  # more seeds of a search's winner need no new search
# Overrides of a stranger that could build any class or read the environment, and those that name an earlier run.
NOT_TYPED_AGAIN = re.compile(r".*(_target_|\$\{)|[+~]*(rerun|trust|hydra[./])", re.S)
NEVER_SWEPT = re.compile(r"\+{0,2}(data\.root|store\.dir|encoder\..*(weights|vectors))")  # a comma belongs to the path


def more_seeds(setting: Setting, wanted: int) -> str | None:
    """Return the command that brings a setting to `wanted` finished seeds; None if it has that many, or is adopted.

    The new seeds follow the largest seed used, and the seed of the sweep's search is skipped.

    Args:
        setting: has at least one finished run.
        wanted: number of finished seeds in total.
    """
    if setting.splits:
        commands = (more_seeds(part, wanted) for part in setting.parts if part.finished)
        return " && ".join(filter(None, commands)) or None
    lacking = wanted - len(setting.finished)
    if lacking < 1 or setting.is_adopted:
        return None
    first = max(seed for config in setting.configs if isinstance(seed := config["seed"], int)) + 1
    tuned_with = trial_seed(setting.finished[-1])
    seeds = [seed for seed in range(first, first + lacking + 1) if seed != tuned_with][:lacking]
    return command(setting, seeds, into_sweep(setting))


def with_fusion(setting: Setting, fusion: str, keys: Sequence[str], modalities: Sequence[str] = ()) -> str:
    """Return the command that trains another fusion as this setting was trained, with the seeds of its finished runs.

    The runs go into the setting's sweep, if it has one.

    Args:
        setting: has at least one finished run.
        fusion: a choice, such as `mean`, or several with commas.
        keys: options that both fusions have, without `fusion.`. Typed overrides of other fusion options are dropped.
        modalities: choices that replace the setting's own.
    """
    theirs = tuple(f"fusion.{key}=" for key in keys)
    typed = setting.runs[-1].overrides
    left_out = [word for word in typed if _of_fusion(word) and not word.lstrip("+").startswith(theirs)]
    also = [f"fusion={fusion}"]
    if modalities:
        left_out += [word for word in typed if override_key(word) == "modalities"]
        also.append(f"modalities={','.join(modalities)}")
    seeds = [int(seed) for seed in setting.seeds]
    return command(setting, seeds, [*also, *into_sweep(setting)], left_out)


def override_key(override: str) -> str:
    """Return the key of an override as typed, such as `seed=1`."""
    return override.partition("=")[0].lstrip("+")


def _of_fusion(override: str) -> bool:
    return override.lstrip("+").startswith(("fusion=", "fusion."))


def into_sweep(setting: Setting) -> list[str]:
    """Return `[hydra.sweep.dir=FOLDER]` for the sweep of the setting's last finished run; [] outside a sweep.

    Raises:
        UserError: the sweep's status.json is damaged.
    """
    sweep = setting.finished[-1].folder.absolute().parent
    return [f"hydra.sweep.dir={sweep}"] if is_sweep(sweep) else []


def command(
    setting: Setting,
    seeds: Sequence[int],
    also: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Sequence[str] | None = None,
) -> str:
    """Return the shell command that trains a setting with these seeds, from any folder.

    For adopted predictions, it is the command that adopts them. It repeats the overrides of the setting's last run, without
    `seed=` and `sweep=`; `data.root` and `store.dir` become absolute.
    If an override could run code, or names an earlier run, it is `rerun=RUN` with the folder of the last run instead. It is a
    multirun if there are several seeds, or if `also` is given.

    Args:
        setting: has at least one run.
        seeds: at least one.
        also: further overrides, as `key=value`.
        left_out: overrides to drop, each exactly as it was typed.
        overrides: to type in place of the last run's.

    Raises:
        UserError: a file of the run or its sweep is damaged.

    A setting over several splits has a command for each kind of split.
    """
    if setting.splits and overrides is None:
        return _of_products(setting.parts, seeds, lambda _: also, left_out=left_out)
    kept, last = overrides, (setting.finished or setting.runs)[-1]
    if setting.is_adopted:
        return _adopted_again(setting)
    if kept is None and is_rerun(setting):
        kept = [f"rerun={last.folder.absolute()}"]
    elif kept is None:
        kept = [
            _absolute(override, setting.configs[-1])
            for override in setting.runs[-1].overrides
            if not override.lstrip("+").startswith(NOT_A_SETTING) and override not in left_out
        ]
    typed = _typed_of_hydra(last.folder.absolute().parent)
    own = setting.configs[-1].get("config_dir") or typed.config_dir
    listed = any(f"'file://{own}'" in word for word in typed.searchpath)
    sources = [*(["--config-dir", own] if own and not listed else []), *typed.searchpath]
    many = ["-m", *typed.launcher] if len(seeds) > 1 or also else []
    words = [*sources, *many, *kept, f"seed={_listed(seeds)}", *also]
    return _where(kept, last) + "python -m gmu_lightning.train " + shlex.join(words)


def _adopted_again(setting: Setting) -> str:
    """Return the command that adopts the predictions of a setting, of all its seeds, once more."""
    nodes = [config.get("adopted") or {"sources": []} for config in setting.configs]  # a stranger's seeds may differ in it
    files = dict.fromkeys(source["file"] for node in nodes for source in node["sources"])
    kept = [
        _absolute(override, setting.configs[-1])
        for override in setting.runs[-1].overrides
        if not override.lstrip("+").startswith("predictions=") and not NOT_TYPED_AGAIN.match(override)
    ]
    own = setting.configs[-1].get("config_dir")
    words = [*(["--config-dir", own] if own else []), f"predictions={','.join(files)}", *kept]
    return "python -m gmu_lightning.adopt " + shlex.join(words)


def is_rerun(setting: Setting) -> bool:
    """Return whether the overrides of a setting's last run are not typed again, since its config.yaml is read as data instead."""
    return any(NOT_TYPED_AGAIN.match(word) for word in setting.runs[-1].overrides)


def add_seeds(settings: Sequence[Setting], seeds: Sequence[int], skipped: Collection[frozenset[str]] = ()) -> str:
    """Return the shell line that trains every setting with these seeds, into the sweep of its last finished run.

    Settings that form a cross product share one command. Several commands are joined by ` && `.

    Args:
        settings: each has a finished run.
        seeds: at least one.
        skipped: overrides, without seed, of the jobs that a sweep skips. A cross product may hold these too.
    """
    return _of_products(_trained_parts(settings), seeds, into_sweep, skipped)


def train_all(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    also: Sequence[str] = (),
    dropped: Collection[str] = (),
    into_sweeps: bool = False,
) -> str:
    """Return the shell line that trains every setting with these seeds and further overrides.

    Args:
        settings: each has a finished run.
        seeds: at least one.
        also: overrides, as `key=value`, which replace typed ones of the same key.
        dropped: keys whose typed overrides are left out.
        into_sweeps: whether the runs go into the sweep of the setting's last finished run.
    """
    parts = _trained_parts(settings)
    keys = {*map(override_key, also), *dropped}
    left_out = [word for one in parts for word in one.runs[-1].overrides if override_key(word) in keys]
    return _of_products(parts, seeds, lambda one: [*also, *(into_sweep(one) if into_sweeps else [])], left_out=left_out)


def _trained_parts(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings split by split, those with a finished run."""
    return [part for one in settings for part in one.parts if part.finished]


def _of_products(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    also: Callable[[Setting], Sequence[str]],
    skipped: Collection[frozenset[str]] = (),
    left_out: Sequence[str] = (),
) -> str:
    """Return the commands that train settings of one split each, a command for each cross product, joined by ` && `.

    Args:
        settings: each has a run.
        seeds: at least one.
        also: returns the further overrides of a setting.
        skipped: as in `add_seeds`.
        left_out: overrides to drop, each exactly as it was typed.
    """
    of_sweep: dict[tuple[Any, ...], list[tuple[Setting, dict[str, str]]]] = {}
    for setting in (one for one in settings if not is_rerun(one)):
        typed_words = (word for word in setting.runs[-1].overrides if word not in left_out)
        kept = [word for word in typed_words if not word.lstrip("+").startswith(NOT_A_SETTING)]
        typed = {word.partition("=")[0]: word for word in kept}
        last = (setting.finished or setting.runs)[-1].folder.absolute()
        of_sweep.setdefault((last.parent, tuple(sorted(typed))), []).append((setting, typed))
    lines = [command(setting, seeds, also(setting)) for setting in settings if is_rerun(setting)]
    for group in of_sweep.values():
        for block in _products([typed for _, typed in group], skipped):
            inside = [setting for setting, typed in group if all(typed[key] in words for key, words in block.items())]
            first = next((setting for setting in inside if setting.configs[-1].get("config_dir")), inside[0])
            words = [_absolute(_swept(key, words), first.configs[-1]) for key, words in block.items()]
            lines.append(command(first, seeds, also(first), overrides=words))
    return " && ".join(lines)


def evaluations(runs: Sequence[Run], option: str) -> str:
    """Return the shell lines that evaluate these runs with an option, such as `robustness=true`.

    Runs share a line, unless they need another `--config-dir`, or have a comma in their folder.
    """
    lines: dict[tuple[str | None, str], list[str]] = {}
    for run in runs:
        folder = str(run.folder.absolute())
        lines.setdefault((run.config.get("config_dir"), folder if "," in folder else ""), []).append(folder)
    return "\n".join(_evaluation(own, folders, option) for (own, _), folders in lines.items())


def _evaluation(config_dir: str | None, folders: Sequence[str], option: str) -> str:
    own = ["--config-dir", config_dir] if config_dir else []
    return shlex.join(["python", "-m", "gmu_lightning.evaluate", *own, f"run={','.join(folders)}", option])


def _products(settings: Sequence[dict[str, str]], skipped: Collection[frozenset[str]]) -> list[dict[str, list[str]]]:
    """Return cross products, {key: its overrides}, which together hold exactly these settings and skipped jobs.

    Of the ways to split the settings at one key after another, it is the one with the fewest products.
    """
    block = {key: list(dict.fromkeys(typed[key] for typed in settings)) for key in settings[0]}
    wanted = {frozenset(typed.values()) for typed in settings}
    varying = [key for key, words in block.items() if len(words) > 1]
    paths = [key for key in varying if NEVER_SWEPT.fullmatch(key)]
    if not paths and all(set(job) in wanted or frozenset(job) in skipped for job in product(*block.values())):
        return [block]
    found = []
    for split in paths[:1] or varying:
        parts = [[typed for typed in settings if typed[split] == word] for word in block[split]]
        found.append([block for part in parts for block in _products(part, skipped)])
    return min(found, key=len)


def _swept(key: str, words: Sequence[str]) -> str:
    """Return one override for all values of a key."""
    return words[0] if len(words) == 1 else f"{key}={','.join(word.partition('=')[2] for word in words)}"


def _where(overrides: Sequence[str], run: Run) -> str:
    """Return a `cd` to the original folder if an encoder's path is relative to it. The path is part of the setting."""
    typed = [override.partition("=")[::2] for override in overrides]
    named = [value for key, value in typed if key.lstrip("+").startswith("encoder.") and value and not Path(value).is_absolute()]
    folder = run.environment.get("cwd") if named else None
    return f"cd {shlex.quote(folder)} && " if folder and any((Path(folder) / value).exists() for value in named) else ""


def _listed(seeds: Sequence[int]) -> str:
    """Return seeds in Hydra's syntax; more than five consecutive ones become a range."""
    follow = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"range({seeds[0]},{seeds[-1] + 1})" if follow and len(seeds) > 5 else ",".join(map(str, seeds))


class _Typed(NamedTuple):
    """A sweep's arguments for Hydra itself. `config_dir` is None and the lists are empty for another folder."""

    config_dir: str | None = None
    searchpath: Sequence[str] = ()
    launcher: Sequence[str] = ()


def _typed_of_hydra(sweep: Path) -> _Typed:
    path = sweep / "multirun.yaml"
    return _in_multirun(path, path.lstat().st_mtime_ns) if is_there(path) else _Typed()


@cache
def _in_multirun(path: Path, _written: int) -> _Typed:
    """Read multirun.yaml, once for all pairs of a sweep."""
    hydra = records.multirun(path)["hydra"]
    typed = hydra["overrides"]["hydra"]
    folders = [source["path"] for source in hydra["runtime"]["config_sources"] if source["provider"] == "command-line"]
    return _Typed(
        folders[0] if folders else None,
        [word for word in typed if word.startswith("hydra.searchpath=")],
        [word for word in typed if word.startswith(("hydra/launcher=", "hydra.launcher."))],
    )


def _absolute(override: str, config: Mapping[str, Any]) -> str:
    """Return an override of the data's or store's folder with its absolute path."""
    for group, name in (("data", "root"), ("store", "dir")):
        key, found = f"{group}.{name}", (config.get(group) or {}).get(name)
        if override.lstrip("+").startswith(f"{key}=") and found is not None:
            return f"{key}={found}"
    return override
