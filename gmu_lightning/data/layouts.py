"""What the layouts share in which a data set is found on disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from gmu_lightning.data.audit import Audit
from gmu_lightning.files import looks_like
from gmu_lightning.movie import SPLITS, Movie, UserError

# A split's name here, and the names that published files give it.
FILE_NAMES = {"train": ("train",), "val": ("dev", "val"), "test": ("test",)}


class Layout(Protocol):
    """An opened data set."""

    name: str  # raw, hdf5 or jsonl
    root: Path  # the folder, or the file, that was found

    def record_file(self, id: str, split: str) -> str:
        """The file that a movie's record stands in, relative to the data's root."""
        ...

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Every id of the split, in its order: yielded, or in the audit as removed."""
        ...


class FirstUse:
    """Where each id stands first; splits count in the order train, val, test."""

    def __init__(self, ids: Mapping[str, Sequence[str]]):
        self.where: dict[str, tuple[str, int]] = {}
        for split in SPLITS:
            for n, movie in enumerate(ids[split]):
                self.where.setdefault(movie, (split, n))

    def repeated(self, movie: str, split: str, n: int, file: str, audit: Audit) -> bool:
        """Whether place n of the split repeats an id; if so, the audit says that it is removed."""
        first = self.where[movie]
        if first == (split, n):
            return False
        audit.add(movie, file, split, "duplicate_id", "removed", f"already in {first[0]}, place {first[1] + 1}")
        return True


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn the system's refusal of a file in `root`, or of `root` itself, into a sentence. Raises UserError."""
    try:
        yield
    except OSError as error:
        place = root.expanduser().absolute()
        file = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        if not (file.is_relative_to(place) if file else error.errno == errno.EIO):
            raise  # of the store, or of the machine
        raise UserError(
            f"{file or root} cannot be read ({error.strerror}): check its permissions and the disk, or give another data.root."
        ) from error


def why_no_json(data: bytes, error: Exception) -> str:
    """Return in a clause why bytes are no JSON: what they are where that is known, else what the parser met."""
    known = looks_like(data)
    if known:
        return known
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}): save it as UTF-8"
    if data.lstrip().startswith((b"{'", b"[{'", b"['")):
        return "not JSON but a Python literal: write it with json.dumps"
    return f"not JSON: {error}" if isinstance(error, json.JSONDecodeError | RecursionError) else str(error)


def check_choices(values: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> None:
    """UserError where the value of `data.<argument>` is none that it may have."""
    for argument, value in values.items():
        if value not in known[argument]:
            raise UserError(f"data.{argument}={value} does not exist: choose one of {', '.join(known[argument])}.")


def here_or_one_down(place: Path, at: Callable[[Path], Path | None]) -> Path | None:
    """What `at` finds at a place, or in the one folder inside it that has it; None where neither has.

    Raises:
        UserError: several folders have it.
    """
    there = at(place)
    if there is not None or not place.is_dir():
        return there
    inside = [there for folder in sorted(place.iterdir()) if folder.is_dir() and (there := at(folder)) is not None]
    if len(inside) > 1:
        raise UserError(
            f"data.root={place} holds several data sets ({', '.join(p.name for p in inside[:5])}): choose one of them."
        )
    return inside[0] if inside else None


def near_names(path: Path) -> str:
    """`, but FOLDER holds NAME` for names beside a missing path that are much like its own; else nothing."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=2)
    return f", but {path.parent} holds {' and '.join(near)}" if near else ""


def what_it_holds(folder: Path) -> str:
    """The first names in a folder, in a clause."""
    names = sorted(entry.name for entry in folder.iterdir())
    return f"it holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else "it is empty"
