"""The command that trains a setting, again or with more seeds, as it is typed in any folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.report.found import is_sweep
from gmu_lightning.report.search import trial_seed
from gmu_lightning.report.settings import Setting
from gmu_lightning.run import Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.content import is_there

NOT_A_SETTING = ("seed=", "sweep=")  # a search is not searched again for more seeds of its winner


def more_seeds(setting: Setting, wanted: int) -> str | None:
    """The command that trains what a setting lacks of `wanted` seeds, into its sweep; None where it lacks none."""
    lacking = wanted - len(setting.finished)
    if lacking < 1:
        return None
    first = max(seed for config in setting.configs if isinstance(seed := config["seed"], int)) + 1
    tuned_with = trial_seed(setting.finished[-1])
    seeds = [seed for seed in range(first, first + lacking + 1) if seed != tuned_with][:lacking]
    return command(setting, seeds, into_sweep(setting))


def with_fusion(setting: Setting, fusion: str, keys: Sequence[str]) -> str:
    """Return the command that trains another fusion as this setting was trained, with its seeds, into its sweep.

    Args:
        keys: of `fusion.` that the other fusion has too; what was typed of others is left out.
    """
    theirs = tuple(f"fusion.{key}=" for key in keys)
    left_out = [word for word in setting.runs[-1].overrides if _of_fusion(word) and not word.lstrip("+").startswith(theirs)]
    seeds = [int(seed) for seed in setting.seeds]
    return command(setting, seeds, [f"fusion={fusion}", *into_sweep(setting)], left_out)


def _of_fusion(override: str) -> bool:
    return override.lstrip("+").startswith(("fusion=", "fusion."))


def into_sweep(setting: Setting) -> list[str]:
    """Return the override that adds runs to the setting's sweep; none where its runs are in no sweep."""
    sweep = setting.finished[-1].folder.absolute().parent
    return [f"hydra.sweep.dir={sweep}"] if is_sweep(sweep) else []


def command(setting: Setting, seeds: Sequence[int], also: Sequence[str] = (), left_out: Sequence[str] = ()) -> str:
    """The command that trains a setting with these seeds, from any folder.

    Args:
        also: further overrides.
        left_out: of the typed overrides those that it does not repeat.
    """
    kept = [
        _absolute(override, setting.configs[-1])
        for override in setting.runs[-1].overrides
        if not override.lstrip("+").startswith(NOT_A_SETTING) and override not in left_out
    ]
    last = (setting.finished or setting.runs)[-1]
    typed = _typed_of_hydra(last.folder.absolute().parent)
    many = ["-m", *typed.launcher] if len(seeds) > 1 or also else []
    words = [*typed.sources, *many, *kept, f"seed={_listed(seeds)}", *also]
    return _where(kept, last) + "python -m gmu_lightning.train " + shlex.join(words)


def _where(overrides: Sequence[str], run: Run) -> str:
    """Back to the folder that was typed in, where an encoder's file or folder was named from there: its name is part of what
    the setting is, so it stays as typed."""
    typed = [override.partition("=")[::2] for override in overrides]
    named = [value for key, value in typed if key.lstrip("+").startswith("encoder.") and value and not Path(value).is_absolute()]
    folder = run.environment.get("cwd") if named else None
    return f"cd {shlex.quote(folder)} && " if folder and any((Path(folder) / value).exists() for value in named) else ""


def _listed(seeds: Sequence[int]) -> str:
    """As Hydra takes them: many that follow each other as a range, which ends before its end."""
    follow = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"range({seeds[0]},{seeds[-1] + 1})" if follow and len(seeds) > 5 else ",".join(map(str, seeds))


class _OfHydra(NamedTuple):
    """What was typed for Hydra itself, and belongs to a command: more folders of configurations, and the launcher."""

    sources: Sequence[str] = ()
    launcher: Sequence[str] = ()


def _typed_of_hydra(sweep: Path) -> _OfHydra:
    """Of a sweep; nothing where the folder is none."""
    path = sweep / "multirun.yaml"
    return _in_multirun(path, path.lstat().st_mtime_ns) if is_there(path) else _OfHydra()


@cache
def _in_multirun(path: Path, _written: int) -> _OfHydra:
    """Read once: every pair of a sweep's settings asks."""
    hydra = records.multirun(path)["hydra"]
    typed = hydra["overrides"]["hydra"]
    folders = [source["path"] for source in hydra["runtime"]["config_sources"] if source["provider"] == "command-line"]
    sources = [word for folder in folders for word in ("--config-dir", folder)]
    return _OfHydra(
        [*sources, *(word for word in typed if word.startswith("hydra.searchpath="))],
        [word for word in typed if word.startswith(("hydra/launcher=", "hydra.launcher."))],
    )


def _absolute(override: str, config: Mapping[str, Any]) -> str:
    """The data's folder as it was found, so that the command works from any folder."""
    for group, name in (("data", "root"), ("store", "dir")):
        key, found = f"{group}.{name}", (config.get(group) or {}).get(name)
        if override.lstrip("+").startswith(f"{key}=") and found is not None:
            return f"{key}={found}"
    return override
