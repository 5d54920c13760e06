"""Find the folders of choices that stand beside this package's own: those of installed packages and of `hydra.searchpath`.

A package declares its folder as an entry point in its pyproject.toml:

    [project.entry-points."gmu_lightning.conf"]
    my_parts = "my_parts.conf"

The value names a folder of groups inside the package, with files such as `my_parts/conf/fusion/my_fusion.yaml`. The code of the
package is not imported.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

GROUP = "gmu_lightning.conf"


class Source(NamedTuple):
    """A folder of choices.

    Attributes:
        owner: the name of its origin in sentences, such as `the package my-parts`.
        folder: absolute.
    """

    owner: str
    folder: Path


class Package(NamedTuple):
    """An installed package with the entry point.

    Attributes:
        name, version: of the package, as pip lists them.
        declared: the entry point, such as `my_parts = my_parts.conf`.
        folder: of its groups, absolute; None if it does not exist.
    """

    name: str
    version: str
    declared: str
    folder: Path | None

    @property
    def source(self) -> Source | None:
        """The folder of choices; None if it does not exist."""
        return None if self.folder is None else Source(f"the package {self.name}", self.folder)


@cache
def installed() -> tuple[Package, ...]:
    """Return the installed packages with the entry point, in the order of sys.path, without the current folder.

    The function reads the lists of entry points itself, because the import of `importlib.metadata` takes ten times as long.
    """
    left_out = {""}
    with suppress(OSError):  # the current folder may be gone
        left_out.add(str(Path.cwd()))
    found: dict[tuple[str, str], Package] = {}
    for place in dict.fromkeys(sys.path):
        for package in _packages_in(place) if place not in left_out else ():
            name = re.sub(r"[-_.]+", "-", package.name).lower()
            found.setdefault((name, package.declared.partition("=")[0].strip()), package)
    return tuple(found.values())


def _packages_in(place: str) -> Iterator[Package]:
    """Yield the packages of one folder of sys.path."""
    with suppress(OSError):
        for file in sorted(Path(place).glob("*-info/entry_points.txt")):
            text = file.read_bytes()
            if GROUP.encode() in text:
                for declared in _entries(text.decode(errors="replace")):
                    name, version = _name_and_version(file.parent)
                    yield Package(name, version, declared, folder_of(declared.partition("=")[2]))


def _entries(text: str) -> Iterator[str]:
    """Yield the entries of our group in an entry_points.txt, as `name = value`."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == GROUP and "=" in line and not line.startswith(("#", ";")):
            yield line


def _name_and_version(info: Path) -> tuple[str, str]:
    """Return name and version of an installed package, from its metadata or the name of their folder."""
    stem, _, version = info.stem.partition("-")
    found = {"name": stem, "version": version.partition("-")[0]}
    file = info / ("METADATA" if info.suffix == ".dist-info" else "PKG-INFO")
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines():
            key, colon, value = line.partition(":")
            if colon and key.lower() in found:
                found[key.lower()] = value.strip()
    return found["name"], found["version"]


def folder_of(dotted: str) -> Path | None:
    """Return the folder that `package.folder` or `package:folder` names; None if it does not exist.

    Only the place of the outermost package is looked up, so no code of it runs.
    """
    top, *inside = dotted.partition("[")[0].strip().replace(":", ".").split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((folder for place in places if (folder := Path(place, *inside).absolute()).is_dir()), None)


_typed: list[Source] = []  # of this process's command line


def add(source: Source) -> None:
    """Add a folder that the command line names, for the rest of this process."""
    if source not in _typed:
        _typed.append(source)


def sources() -> tuple[Source, ...]:
    """Return the folders of installed packages, without missing ones, and those that the command line added."""
    return (*(one.source for one in installed() if one.source is not None), *_typed)


def owner_of(path: Path) -> str | None:
    """Return the origin of a file in one of the `sources`; None for any other file."""
    resolved = path.resolve()
    return next((one.owner for one in sources() if resolved.is_relative_to(one.folder.resolve())), None)
