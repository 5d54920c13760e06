"""Turn Python's keyword arguments into the arguments of a command, quoted so that Hydra reads the same values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gmu_lightning.cli.command_line import escaped, refuse_other_bytes
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.movie import UserError

KEY = re.compile(r"\+{0,2}[A-Za-z_][\w$/.@-]*", re.ASCII)
BARE = re.compile(r"[A-Za-z_/][\w/.+@-]*", re.ASCII)  # text that needs no quotes, unless it is one of RESERVED
RESERVED = ("null", "true", "false", "inf", "nan")  # in any case of letters
NAME = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)  # a key of a mapping inside a list


def arguments_of(options: Mapping[str, Any], swept: bool = False) -> list[str]:
    """Return `key=value` for each option, as one would type it.

    Args:
        options: by name. A mapping holds options by the rest of their names; `{"text": "minilm"}` under `encoder` chooses
            `encoder/text`.
        swept: whether a list or range holds the values of a sweep, and not one value.

    Raises:
        UserError: a key or a value cannot be typed.
    """
    return [_argument(key, value, swept) for key, value in _flat(options)]


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that no process takes. Raises UserError."""
    refuse_other_bytes(arguments)
    for argument in arguments:
        if "\0" in argument:
            raise UserError(f"{argument} holds a zero byte, which an argument cannot hold: leave it out")


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        key = f"{prefix}{name}"
        if not KEY.fullmatch(key):
            raise UserError(f"{key} is no key of an option: give one like fusion, trainer.max_epochs or encoder/text")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key.replace('/', '.')}.")
        else:
            group = key.replace(".", "/")
            yield (group if prefix and (conf_folder() / group).is_dir() else key), value


def _argument(key: str, value: Any, swept: bool) -> str:
    value = _plain(value)
    several = swept and isinstance(value, (list, tuple, range))
    values = list(value) if several else [value]
    if not values:
        raise UserError(f"{key}=[] gives no value to try: give at least one, or leave {key} out")
    if len(values) == 1 and isinstance(values[0], (str, PurePath)):
        typed = f"{key}={values[0]}"
        if _is_one_path(typed):
            return typed
    argument = f"{key}={','.join(_element(key, one) for one in values)}"
    if _is_one_path(argument) and (several or isinstance(value, (list, tuple, range, Mapping))):
        raise UserError(f"{key} takes one path, and not {values}: give one, and train once for each path")
    return argument


def _is_one_path(argument: str) -> bool:
    """Return whether the command takes the value of an argument as typed, outside Hydra's grammar."""
    try:
        return escaped(argument) != argument
    except OSError:  # the name of a file cannot be so long; the command refuses it in a sentence
        return False


def _element(key: str, value: Any) -> str:
    """Return a value in Hydra's grammar."""
    value = _plain(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, PurePath)):
        return quoted(str(value))
    if isinstance(value, (list, tuple, range)):
        return f"[{','.join(_element(key, one) for one in value)}]"
    if isinstance(value, Mapping) and all(isinstance(name, str) and NAME.fullmatch(name) for name in value):
        return f"{{{','.join(f'{name}:{_element(key, one)}' for name, one in value.items())}}}"
    raise UserError(f"{key} is a {type(value).__name__}: give text, a number, a path, True, False, None, or a list of them")


def _plain(value: Any) -> Any:
    """Return an array, a series or a number of NumPy, pandas or torch as Python's own; other values as they are."""
    return value.tolist() if hasattr(value, "tolist") else value


def quoted(text: str) -> str:
    """Return text so that Hydra reads the same text, in quotes where it needs them. `${KEY}` stays an interpolation."""
    if BARE.fullmatch(text) and text.lower() not in RESERVED:
        return text
    doubled = re.sub(r"\\+(?='|\Z)", lambda run: run[0] * 2, text)  # a backslash counts only before a quote
    return "'" + doubled.replace("'", "\\'") + "'"
