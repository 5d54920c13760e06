"""The folders of choices that Hydra searches: `--config-dir`, `hydra.searchpath`, and those of installed packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin

from gmu_lightning.config import packages
from gmu_lightning.config.groups import import_from
from gmu_lightning.config.packages import Source
from gmu_lightning.movie import UserError

KEY = "hydra.searchpath"


class FurtherChoices(SearchPathPlugin):
    """Adds the folders of choices of installed packages to Hydra's search path, behind this package's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders. Hydra calls it."""
        for source in packages.sources():
            search_path.append(source.owner, f"file://{source.folder}")


class Typed(NamedTuple):
    """The arguments of a command, with absolute folders.

    Attributes:
        arguments: as Hydra reads them.
        config_dir: the folder of `--config-dir`, else the first folder of `hydra.searchpath`, else None.
    """

    arguments: list[str]
    config_dir: str | None


def use_folders(arguments: Sequence[str]) -> Typed:
    """Make the folders of `--config-dir` and `hydra.searchpath` known, and let Python import from them.

    The choices of a `pkg://` entry become known too. Python imports its package anyway.

    Raises:
        UserError: one of them is no folder, or holds a file that Hydra would never read.
    """
    changed, config_dir = with_whole_path(arguments)
    if config_dir:
        import_from(config_dir)
    first = config_dir
    for n, argument in enumerate(changed):
        entries = _entries(argument)
        if not entries:
            continue
        changed[n] = f"{KEY}=[{','.join(QuotedString(entry, Quote.single).with_quotes() for entry in entries)}]"
        for entry in entries:
            scheme, _, place = entry.partition("://")
            if scheme == "file":
                import_from(place, KEY, config_dir)
                first = first or place
            elif scheme == "pkg":
                found = packages.folder_of(place.replace("/", "."))
                if found is None:
                    raise UserError(f"{KEY}={entry} names no folder of an installed package: install it, or correct the name")
                place = str(found)
            else:  # of another plug-in of Hydra
                continue
            if not any(Path(place).samefile(one.folder) for one in packages.sources()):
                packages.add(Source(KEY, Path(place)))
    return Typed(changed, first)


def with_whole_path(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the arguments with the absolute folder of `--config-dir`, and that folder; None if it is not among them.

    Args:
        arguments: hold `--config-dir FOLDER`, `--config-dir=FOLDER` or `-cd FOLDER`; `~` is expanded.
    """
    changed, found = list(arguments), None
    for n, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd") and (equals or n + 1 < len(arguments)):
            typed = value if equals else arguments[n + 1]
            found = os.path.abspath(at_home(f"{option}={typed}", typed))  # noqa: PTH100  # keeps symbolic links
            changed[n if equals else n + 1] = f"{option}={found}" if equals else found
    return changed, found


def at_home(argument: str, value: str) -> Path:
    """Return a path with its leading `~` expanded. Raises UserError, which names the argument, if no home folder is known."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UserError(
            f"{argument}: no home folder is known for {value.split('/', maxsplit=1)[0]}, so give the whole path"
        ) from None


def _entries(argument: str) -> list[str]:
    """Return the entries of `hydra.searchpath=[...]`, folders as `file://` and absolute; none for any other argument."""
    if not argument.startswith(f"{KEY}="):
        return []
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:  # Hydra reports it
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        return []
    found = []
    for entry in value:
        scheme, separator, place = entry.partition("://")
        if separator and scheme != "file":
            found.append(entry)
        else:
            folder = at_home(argument, place if separator else entry)
            found.append(f"file://{os.path.abspath(folder)}")  # noqa: PTH100  # keeps symbolic links
    return found
