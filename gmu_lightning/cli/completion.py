"""Complete the last word of a command in a shell: choices, keys, options, and folders.

Hydra finds choices and keys. This module reads the line as the shell does, so that a path with blanks or `~`, and an option such
as `--config-dir`, do not end the completion. In bash, Hydra's own script would run a command in the name of a file.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gmu_lightning.cli.search_path import use_folders
from gmu_lightning.config import packages
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.config.hydra_versions import base
from gmu_lightning.config.packages import Source
from gmu_lightning.visible import visible

ASKS = ("-sc", "--shell-completion")  # Hydra's options for completion
OPTIONS = ("--help", "--version", "--multirun", "--config-dir", "--cfg")
FILES = "//files"  # a line that tells the shell to quote the candidates as names of files
SCRIPT = """\
_gmu_lightning() {{
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [ "$line" = {files} ]; then
            compopt -o filenames 2> /dev/null
        else
            COMPREPLY+=("$line")
        fi
    done < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORD="$2" "$1" -sc query=bash 2> /dev/null)
}}
complete -o nospace -F _gmu_lightning {name}
"""


class Line(NamedTuple):
    """A command line up to the cursor.

    Attributes:
        words: complete words after the command, without quotes.
        last: the word at the cursor; empty behind a blank.
    """

    words: list[str]
    last: str


def asks_for_completion(typed: Sequence[str]) -> bool:
    """Return whether the arguments are those of a shell that completes a word, or that installs the completion in bash."""
    wanted = [word for word in typed if word.startswith("query=") or word in ("install=bash", "uninstall=bash")]
    return bool(set(ASKS) & set(typed)) and bool(wanted)


def completion(command: str, typed: Sequence[str], is_path: Callable[[str], bool]) -> list[str]:
    """Return the lines that the shell asks for: candidates, or a script. An error gives no candidate, and no message.

    Args:
        command: such as `train`.
        typed: the arguments of the shell: `-sc query=bash`, with the line in `COMP_LINE` and the cursor in `COMP_POINT`.
        is_path: whether the value of an argument is a path.
    """
    name = Path(sys.argv[0]).name
    if "install=bash" in typed:
        return SCRIPT.format(name=name, files=FILES).splitlines()
    if "uninstall=bash" in typed:
        return [f"complete -r {name}"]
    with suppress(Exception, SystemExit):
        line = read(os.environ)
        if line.words[-1:] in (["--config-dir"], ["-cd"]):
            found = files(line.last)
        elif line.last.startswith("-"):
            found = [option for option in OPTIONS if option.startswith(line.last)]
        elif is_path(line.last):
            key, _, value = line.last.partition("=")
            found = [f"{key}={path}" for path in files(value)]
        else:
            return _without(_of_hydra(command, line, is_path), line.last)
        return [*([FILES] if not line.last.startswith("-") and found else []), *_without(found, line.last)]
    return []


def read(environment: Mapping[str, str]) -> Line:
    """Return the line in `COMP_LINE`, up to the cursor if `COMP_POINT` gives it. Quotes may be open at its end."""
    text = environment["COMP_LINE"]
    if (point := environment.get("COMP_POINT", "")).isdecimal():
        text = text[: int(point)]
    for end in ("", "'", '"'):
        with suppress(ValueError):  # a quote is open
            words = shlex.split(f"{text}|{end}")  # the bar keeps a last word that is empty
            return Line(words[1:-1], words[-1].removesuffix("|"))
    return Line([], "")


def files(start: str) -> list[str]:
    """Return the paths that begin with `start`, folders with a slash at their end. A leading `~` stays."""
    folder, slash, name = start.rpartition("/")
    place = Path(f"{folder}{slash}" or ".").expanduser()
    found = []
    with suppress(OSError):
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            hidden = entry.name.startswith(".") and not name.startswith(".")
            if entry.name.startswith(name) and not hidden and visible(entry.name) == entry.name and "\n" not in entry.name:
                found.append(f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}")
    return found


def _of_hydra(command: str, line: Line, is_path: Callable[[str], bool]) -> list[str]:
    """Return Hydra's candidates for the last word. Of several values joined by commas, it completes the last one."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    words, config_dir = use_folders(line.words)
    if config_dir:
        packages.add(Source("--config-dir", Path(config_dir)))
    multirun = [word for word in words if word in ("-m", "--multirun")]
    kept = [word for word in words if _readable(word) and not is_path(word)]
    key, equals, values = line.last.partition("=")
    before, comma, value = values.rpartition(",")
    with initialize_config_dir(str(conf_folder()), **base()):
        plugin = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
        found = plugin._query(command, " ".join([*multirun, *kept, f"{key}{equals}{value}"]))
    return [f"{key}={before},{one.partition('=')[2]}" for one in found] if comma else found


def _readable(word: str) -> bool:
    """Return whether Hydra can read an argument, and it is in one piece."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if word.startswith("-") or len(word.split()) != 1:
        return False
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _without(found: Sequence[str], last: str) -> list[str]:
    """Return candidates without the part that the shell keeps: bash completes only what stands behind a sign such as `=`."""
    word = os.environ.get("COMP_WORD")
    if word is None:
        return list(found)
    with suppress(ValueError):  # a quote is open
        word = "".join(shlex.split(word))
    kept = last.removesuffix(word) if last.endswith(word) else ""
    return [one.removeprefix(kept) for one in found]
