"""Where MM-IMDb lies, and in which layout: its folder, the folder above it, its archive or its HDF5 file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gmu_lightning.data import hdf5
from gmu_lightning.data.archive import is_archive, unpacked
from gmu_lightning.data.hdf5 import Hdf5Layout
from gmu_lightning.data.jsonl import JsonlLayout, split_file
from gmu_lightning.data.layouts import Layout, here_or_one_down, near_names, what_it_holds
from gmu_lightning.data.raw import RawLayout
from gmu_lightning.data.store import Store
from gmu_lightning.movie import UserError

EXPECTED = {
    "raw": "split.json beside a folder dataset",
    "hdf5": hdf5.FILE,
    "jsonl": "train.jsonl with dev.jsonl and test.jsonl",
}


@dataclass(frozen=True)
class Found:
    """A data set on disk.

    Attributes:
        layout: raw, hdf5 or jsonl.
        path: its folder, or the HDF5 file.
        also: the other layouts that were there, where `auto` had to choose.
    """

    layout: str
    path: Path
    also: tuple[str, ...] = ()

    def open(self, plot: str = "longest") -> Layout:
        """Read what says which movies there are; `plot` is that of `RawLayout` and `JsonlLayout`. Raises UserError."""
        layouts: dict[str, Callable[[Path], Layout]] = {
            "raw": lambda folder: RawLayout(folder, plot),
            "hdf5": Hdf5Layout,
            "jsonl": lambda folder: JsonlLayout(folder, plot),
        }
        return layouts[self.layout](self.path)


def find_mmimdb(root: str, layout: str, store: Store) -> Found:
    """Find MM-IMDb at `root`; an archive is unpacked into the store, once.

    Args:
        root: the folder with the files, the folder above it, the `.tar.gz` (or `.tar`), or the `.hdf5` file.
        layout: `raw`, `hdf5`, `jsonl`, or `auto`: the first of these that is there.

    Raises:
        UserError: nothing of that layout is there, or it cannot be read.
    """
    wanted = tuple(EXPECTED) if layout == "auto" else (layout,)
    path = Path(root).expanduser()
    try:
        if not path.exists():
            raise UserError(f"data.root={root} does not exist{near_names(path)}: {_expected(wanted)}.")
        place = unpacked(path, store) if is_archive(path) else path
        found = {name: there for name in wanted if (there := here_or_one_down(place, partial(_at, name))) is not None}
        if not found:
            raise UserError(f"data.root={root} is no MM-IMDb ({_expected(wanted)}, there or one folder down): {_instead(path)}.")
    except OSError as refused:
        raise UserError(f"data.root={root} cannot be read ({refused}): check its permissions and the disk.") from refused
    first, *also = found
    return Found(first, found[first], tuple(also))


def _at(layout: str, place: Path) -> Path | None:
    if layout == "raw":
        return place if (place / "split.json").is_file() and (place / "dataset").is_dir() else None
    if layout == "jsonl":
        return place if split_file(place, "train") is not None else None
    file = place if place.suffix in (".hdf5", ".h5") else place / hdf5.FILE
    return file if file.is_file() else None


def _expected(layouts: tuple[str, ...]) -> str:
    return "expected " + ", or ".join(EXPECTED[layout] for layout in layouts)


def _instead(path: Path) -> str:
    if not path.is_dir():
        return "an archive is read as raw" if is_archive(path) else "it is a file, and neither a .tar.gz, a .tar nor an .hdf5"
    if any(_at(layout, path.parent) is not None for layout in EXPECTED):
        return f"the folder above it is: give data.root={path.parent}"
    return what_it_holds(path)
