"""Tools for layouts, which are the arrangements of a data set's files on disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.files import looks_like
from gmu_lightning.movie import SPLITS, BadContent, Movie, UserError, file_of

# {split: its names in published files}
FILE_NAMES = {"train": ("train",), "val": ("dev", "val"), "test": ("test",)}
Sources = Iterable[tuple[str, str, Callable[[], Any]]]  # modality, file as the audit names it, function that reads it


class Layout:
    """The opened files of a data set. A subclass reads one layout.

    Attributes:
        name: of the layout, such as raw, hdf5 or jsonl.
        root: folder or file that was found.
        warnings: sentences for the user about the files.
        order: {id: its place in a file that holds the movies of all splits}; None if each split has a list of its own.
    """

    name: str
    root: Path
    warnings: tuple[str, ...] = ()
    order: Mapping[str, int] | None = None

    def warn(self, sentence: str) -> None:
        """Add a warning for the user."""
        self.warnings = (*self.warnings, sentence)

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield the movies of a split, in its order. The audit names each id without a movie as removed."""
        raise NotImplementedError

    def record_file(self, id: str, split: str) -> str:
        """Return the file of a movie's record, relative to the data's root; by default the root's own name."""
        return self.root.name

    def file_of(self, movie: Movie, split: str, modality: str) -> str:
        """Return the file of a movie's content in one modality, relative to the data's root; by default its record's file."""
        path = file_of(movie.content.get(modality))
        if path is None:
            return self.record_file(movie.id, split)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name


class FirstUse:
    """The first place of each id, in the order train, val, test.

    Args:
        ids: {split: ids in its order}.

    Attributes:
        where: {id: (split, place in it)}.
    """

    def __init__(self, ids: Mapping[str, Sequence[str]]):
        self.where: dict[str, tuple[str, int]] = {}
        for split in SPLITS:
            for n, movie in enumerate(ids[split]):
                self.where.setdefault(movie, (split, n))

    def repeated(self, movie: str, split: str, n: int, file: str, audit: Audit) -> bool:
        """Return whether place n of a split repeats an id. The audit names a repeated one as removed from `file`."""
        first = self.where[movie]
        if first == (split, n):
            return False
        audit.add(movie, file, split, "duplicate_id", "removed", f"already in {first[0]}, place {first[1] + 1}")
        return True


def usable(sources: Sources, id: str, split: str, audit: Audit) -> dict[str, Any]:
    """Return the contents of a movie that can be used; the audit names the others.

    Args:
        sources: the function of each modality returns its content or raises BadContent.
        id: of the movie.
        split: of the movie.
        audit: receives a problem for each content that cannot be used.

    Returns:
        {modality: content}.
    """
    found = {}
    for modality, file, read in sources:
        try:
            found[modality] = read()
        except BadContent as bad:
            audit.add(id, file, split, bad.kind, "kept_absent", bad.detail, modality=modality)
    return found


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Raise UserError if the system refuses to read a file in `root` or `root` itself; pass on other errors."""
    try:
        yield
    except OSError as error:
        place = root.expanduser().absolute()
        file = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        if not (file.is_relative_to(place) if file else error.errno == errno.EIO):
            raise  # an error of the store or of the machine
        raise UserError(
            f"{file or root} cannot be read ({error.strerror}): check its permissions and the disk, or give another data.root."
        ) from error


def why_no_json(data: bytes, error: Exception) -> str:
    """Return a clause that explains why bytes are no JSON; `error` is the exception of the parser."""
    known = looks_like(data)
    if known:
        return known
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}): save it as UTF-8"
    if data.lstrip().startswith((b"{'", b"[{'", b"['")):
        return "not JSON but a Python literal: write it with json.dumps"
    return f"not JSON: {error}" if isinstance(error, json.JSONDecodeError | RecursionError) else str(error)


def here_or_one_down(place: Path, at: Callable[[Path], Path | None]) -> Path | None:
    """Search a place, then the folders inside it.

    Args:
        place: a file or a folder.
        at: returns the path that it finds at a place, or None.

    Returns:
        The path that `at` finds at the place or in a folder inside it, or None.

    Raises:
        UserError: `at` finds a path in several folders.
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


@contextmanager
def existing(root: str, expected: str) -> Iterator[Path]:
    """Yield the path of `data.root`, with `~` expanded.

    Args:
        root: as typed.
        expected: clause that describes the expected files.

    Raises:
        UserError: the path does not exist, or the system refuses to read a file in the block.
    """
    path = Path(root).expanduser()
    try:
        if not path.exists():
            raise UserError(f"data.root={root} does not exist{_near_names(path)}: {expected}.")
        yield path
    except OSError as refused:
        raise UserError(f"data.root={root} cannot be read ({refused}): check its permissions and the disk.") from refused


def _near_names(path: Path) -> str:
    """Return `, but FOLDER holds NAME` if a name beside a missing path resembles its own; else an empty text."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=2)
    return f", but {path.parent} holds {' and '.join(near)}" if near else ""


def what_it_holds(folder: Path) -> str:
    """Return a clause with the first names in a folder."""
    names = sorted(entry.name for entry in folder.iterdir())
    return f"it holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else "it is empty"
