"""Turn an error into one sentence, which names the nearest choices and keys."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from gmu_lightning.config.groups import choices_of, conf_folder, folders, read_yaml, yaml_problem
from gmu_lightning.config.hydra_versions import base
from gmu_lightning.machine import refusal
from gmu_lightning.movie import UserError


def sentence(error: BaseException, config_dir: str | None = None) -> str:
    """Return one sentence on an error, for the person who typed the command; choices of the folder `config_dir` are named too."""
    cause = _cause(error)
    text = " ".join(str(cause).split())
    if isinstance(cause, UserError):
        return text
    if refused := refusal(cause):
        return refused
    if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark is not None:
        return yaml_problem(cause, Path(cause.problem_mark.name))
    if isinstance(cause, MissingMandatoryValue):
        return f"a value is missing: give {cause.full_key}=VALUE on the command line"
    missing = re.search(r"Could not find '([^']+)/([^/']+)'", text)
    if isinstance(cause, MissingConfigException) and missing:
        group, choice = missing.groups()
        all_of_them = f"python -m gmu_lightning.info group={group} lists them"
        return f"{group}={choice} is no choice: {_near(choice, choices_of(group, config_dir), all_of_them)}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        lacking = _lacking(key)
        if lacking:
            return lacking
        others = [known for known in known_keys() if known != key]
        return f"{key} is no key of the configuration: {_near(key, others, 'see --cfg job for all keys')}"
    several = re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", text)
    if several:
        key, values = several.groups()
        return f"{key}={values} holds several values: give one, type {key}=[{values}] for a list, or sweep by `train --multirun`"
    if isinstance(cause, OverrideParseException):
        place = r"^Error when parsing index: .*? out of \[.*?\]\. "  # Hydra 1.4 begins so
        reason = re.sub(place, "", text.split(" See https")[0])
        return f"an argument does not follow key=value: {reason}"
    if isinstance(cause, (ConfigCompositionException, ConfigKeyError, HydraException, OmegaConfBaseException)):
        return f"the configuration cannot be composed: {text}"
    return f"{type(cause).__name__}: {text}"


def _lacking(key: str) -> str | None:
    """Return a sentence on a key that some choices of its group have and the chosen one lacks; None for other keys."""
    group = key.rpartition(".")[0].replace(".", "/")
    choices = choices_of(group) if group and not group.startswith("hydra") else []
    having = [choice for choice in choices if key in _keys_of(f"{group}/{choice}")]
    if not having:
        return None
    typed = next((word.split("=", 1)[1].split(",") for word in sys.argv if word.startswith(f"{group}=")), [])
    lacking = [choice for choice in typed if choice not in having]
    chosen = " and ".join(f"{group}={choice}" for choice in lacking) or f"the {group} chosen here"
    others = " or ".join(f"{group}={choice}" for choice in having)
    return f"{key} is no key of {chosen}: leave out one of the two, or choose {others}, with this key"


def _keys_of(name: str) -> list[str]:
    """Return every key of a composed configuration, which a command or a choice names, or [] if a file is damaged."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), **base()), suppress(HydraException, yaml.YAMLError):
        return _flat(OmegaConf.to_container(compose(name), resolve=False))
    return []


def is_expected(error: BaseException) -> bool:
    """Return whether an error is the user's or the machine's, so that its sentence needs no traceback."""
    cause = _cause(error)
    if isinstance(cause, (UserError, HydraException, OmegaConfBaseException, yaml.MarkedYAMLError)):
        return True
    return refusal(cause) is not None


def _cause(error: BaseException) -> BaseException:
    """Return the UserError among the causes of an error; the error itself if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def _near(word: str, names: Sequence[str], all_of_them: str) -> str:
    """Return the nearest names, and all of them if they are few; otherwise the clause on the place of the others."""
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?" + (f" Choices are {', '.join(names)}" if len(names) < 20 else "")
    return f"choices are {', '.join(names)}" if len(names) < 20 else all_of_them


def known_keys() -> list[str]:
    """Return every key that the default configurations and the encoders' files have, and every group."""
    chosen = (("encoder/*/*.yaml", "encoder.{}."), ("hydra/launcher/*.yaml", "hydra.{}."), ("sweep/*.yaml", "hydra."))
    of_choices: set[str] = set()
    for pattern, prefix in chosen:
        for path in (path for folder in folders() for path in folder.glob(pattern)):
            with suppress(UserError):  # another package's file is damaged
                of_choices |= {f"{prefix.format(path.parent.name)}{key}" for key in _flat(read_yaml(path)) if key != "defaults"}
    groups = [str(path.relative_to(folder)) for folder in folders() for path in folder.rglob("*") if path.is_dir()]
    commands = ("train", "evaluate", "predict", "app", "export", "adopt", "compare", "dashboard", "store", "info", "doctor")
    of_commands = {key for command in commands for key in _keys_of(command)}
    return sorted({*groups, *of_choices, *of_commands})


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = [f"{prefix}{key}" for key in node]
    return names + [name for key, value in node.items() for name in _flat(value, f"{prefix}{key}.")]
