"""The three layouts of MM-IMDb: as published, as the MMBT code writes it, and its authors' features in one HDF5 file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.readers.layouts import FILE_NAMES, FirstUse, Layout, Sources, usable, why_no_json
from gmu_lightning.data.readers.media import POSTERS, Folder, Ids, NamedFiles
from gmu_lightning.data.readers.records import TEXT_KEYS, SplitFiles, genres_of, note_other_key, plot_of
from gmu_lightning.data.readers.strings import MOST_RECORD, MOST_SPLIT, as_utf8, parsed
from gmu_lightning.files import bytes_of, looks_like
from gmu_lightning.movie import SPLITS, Movie, UserError
from gmu_lightning.visible import first_line

ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
PLOT_KEYS = ("plot", "plots", "text")
HDF5_FILE = "multimodal_imdb.hdf5"
PUBLISHED_SPLITS = {"train": 15552, "val": 2608, "test": 7799}  # rows of the published HDF5 file, in this order
COLUMNS = {"text": "features", "image": "vgg_features"}
AXES = {"features": 2, "vgg_features": 2, "genres": 2, "imdb_ids": 1}  # number of axes of each part of the HDF5 file
MOST_ROWS, WIDEST, LARGEST_CHUNK = 10**7, 10**5, 1 << 30  # movies, values of a row or bytes of a value, bytes of a chunk
KINDS = {"imdb_ids": "SOU", "genres": "fiubS"}  # of dtypes; other parts hold numbers
WINDOW = 512  # rows that are read together
FIELDS = ("split", "source", "start", "stop")  # of the attribute `split`; `available` and `indices` are optional
FUEL = "the table that fuel's H5PYDataset.create_split_array makes of train, dev and test"


class RawLayout(Layout):
    """MM-IMDb as published: `split.json`, and `dataset/<id>.json` and `dataset/<id>.jpeg` for each movie.

    Args:
        root: folder that holds `split.json`.
        plot: the plot to read of several: `longest`, `first`, or all of them joined (`concat`).

    Raises:
        UserError: `split.json` lacks the ids of a split, or cannot be read.
    """

    name = "raw"

    def __init__(self, root: Path, plot: str = "longest"):
        self.root, self.plot = root, plot
        self.ids = read_split_file(root / "split.json")
        self.first = FirstUse(self.ids)
        self.records, self.posters = (Folder(root / "dataset", suffixes, self.first.where) for suffixes in ((".json",), POSTERS))

    def record_file(self, id: str, split: str) -> str:
        """Return the movie's JSON file, relative to the root."""
        return f"dataset/{self.records.name(id) or f'{id}.json'}"

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield the movies of a split, with the plot (str) as text and the poster (Path) as image."""
        for n, movie in enumerate(self.ids[split]):
            file = self.record_file(movie, split)
            if self.first.repeated(movie, split, n, "split.json", audit):
                continue
            try:
                record = self._record(movie)
                genres = genres_of(record, "genres")
            except ValueError as broken:
                audit.add(movie, file, split, "broken_json", "removed", str(broken))
                continue
            poster = f"dataset/{self.posters.name(movie) or movie + POSTERS[0]}"
            sources: Sources = [
                ("text", file, partial(plot_of, record, PLOT_KEYS, self.plot)),
                ("image", poster, partial(self.posters.content, movie, "image")),
            ]
            content = usable(sources, movie, split, audit)
            note_other_key(record, "genres", movie, file, split, audit)
            yield Movie(movie, content, genres)

    def _record(self, movie: str) -> dict[str, Any]:
        """Return a movie's JSON object. Raises ValueError with a description for the audit."""
        name = self.records.name(movie)
        if name is None:
            raise ValueError(f"no such file, so its genres are unknown{self.records.near(movie)}")
        try:
            data = bytes_of(self.records.path / name, MOST_RECORD)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror or error}") from error
        try:
            record = parsed(as_utf8(data))
        except (ValueError, RecursionError) as broken:
            raise ValueError(why_no_json(data, broken)) from broken
        if not isinstance(record, dict):
            raise ValueError(f"holds a {type(record).__name__}, expected an object")  # noqa: TRY004
        return record


def read_split_file(path: Path) -> dict[str, list[str]]:
    """Return the ids of each split from a JSON file, in which val may be named `dev`.

    Raises:
        UserError: the file cannot be read, a split is missing or empty, or an id is malformed.
    """
    data = b""
    try:
        data = bytes_of(path, MOST_SPLIT)
        found = parsed(as_utf8(data))
    except (OSError, ValueError, RecursionError) as broken:
        why = broken if isinstance(broken, OSError) else why_no_json(data, broken)
        raise UserError(f"{path} cannot be read as JSON ({why}): restore the split file of the data set.") from broken
    ids = {}
    for split in SPLITS:
        names = FILE_NAMES[split]
        listed = next((found[name] for name in names if name in found), None) if isinstance(found, dict) else None
        if listed == []:
            raise UserError(f"{path} lists no movie in {split}: expected ids in each of train, dev and test.")
        if not isinstance(listed, list):
            has = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise UserError(f"{path} has no list of ids named {' or '.join(names)}, only {has}: expected train, dev and test.")
        odd = next((movie for movie in listed if not isinstance(movie, str) or not ID.fullmatch(movie)), None)
        if odd is not None:
            raise UserError(f'{path} lists {odd!r} in {names[0]}: expected ids in quotes, of letters and digits, like "0000005".')
        ids[split] = listed
    return ids


class JsonlLayout(Layout):
    """MM-IMDb as the MMBT code writes it: `train.jsonl`, `dev.jsonl` (or `val.jsonl`) and `test.jsonl`, and the posters.

    A line is `{"id", "text", "img" | "image": path or null, "label": [...]}`. The path of a poster is relative to the root, or
    absolute and inside it.

    Args:
        root: folder that holds the three files.
        plot: the plot to read of several: `longest`, `first`, or all of them joined (`concat`).

    Raises:
        UserError: one of the three files is missing or cannot be read.
    """

    name = "jsonl"

    def __init__(self, root: Path, plot: str = "longest"):
        self.root, self.plot = root, plot
        self.splits = SplitFiles(root)
        self.posters = NamedFiles(root)

    def record_file(self, id: str, split: str) -> str:
        """Return the name of the split's file."""
        return self.splits.files[split].name

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield the movies of a split, with the plot (str) as text and the poster (Path) as image."""
        for line in self.splits.read(split, audit):
            sources: Sources = [
                ("text", line.place, partial(plot_of, line.record, TEXT_KEYS, self.plot)),
                ("image", line.place, partial(self.posters.poster, line.record)),
            ]
            yield Movie(line.id, usable(sources, line.id, split, audit), genres_of(line.record, "label"))


class Hdf5Layout(Layout):
    """`multimodal_imdb.hdf5`, with a mean word2vec vector and a VGG vector per movie.

    The file holds `features` (N, 300), `vgg_features` (N, 4096), `imdb_ids` (N,), and `genres` (N, C) with the attribute
    `target_names`. The rows of the published file are train, dev and test in this order. A file of another size needs a
    `split.json` beside it, or the attribute `split` of Fuel (github.com/mila-iqia/fuel, fuel/datasets/hdf5.py, line 235).

    Args:
        path: of the file.

    Raises:
        UserError: h5py is not installed, or the file is damaged or lacks a part or a split.
    """

    name = "hdf5"

    def __init__(self, path: Path):
        self.root = path
        with _opened(path) as file:
            try:
                self.movies = [_text(name) for name in file["imdb_ids"][:]]
            except Exception as damage:  # of any kind
                raise UserError(f"{path}: its imdb_ids cannot be read ({first_line(damage)}): download it again.") from damage
            self.genres = np.array(_target_names(file["genres"], path))
            self.ids = self._ids(file)
        self.first = FirstUse(self.ids)
        self.row = {movie: n for n, movie in reversed(list(enumerate(self.movies)))}
        self.known = Ids(self.row, self.first.where)

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield the movies of a split, with text (300,) float32 and image (4096,) float32.

        Raises UserError if rows are damaged, or a label is neither 0 nor 1.
        """
        absent = f"the split file names it, imdb_ids (such as {self.movies[0] if self.movies else ''}) does not"
        places: list[tuple[str, int]] = []
        for n, movie in enumerate(self.ids[split]):
            if self.first.repeated(movie, split, n, self.root.name, audit):
                continue
            name = self.known.find(movie)
            if name is not None:
                places.append((movie, self.row[name]))
            else:
                audit.add(movie, self.root.name, split, "broken_json", "removed", absent)
        with _opened(self.root) as file:
            for start in range(0, len(places), WINDOW):
                yield from self._window(file, places[start : start + WINDOW])

    def _window(self, file: Any, places: list[tuple[str, int]]) -> Iterator[Movie]:
        rows, back = np.unique([row for _, row in places], return_inverse=True)  # h5py needs increasing rows
        first, last = int(rows[0]), int(rows[-1]) + 1
        chosen: Any = slice(first, last) if last - first == len(rows) else rows
        try:
            vectors = {m: file[column][chosen].astype(np.float32) for m, column in COLUMNS.items()}
            genres = file["genres"][chosen]
        except (OSError, RuntimeError, TypeError, ValueError) as damage:
            raise UserError(f"{self.root} is damaged between rows {first} and {last} ({damage}): download it again.") from damage
        for (movie, _), n in zip(places, back.tolist(), strict=True):
            odd = np.flatnonzero(~np.isin(genres[n], (0, 1)))
            if odd.size:
                raise UserError(
                    f"{self.root}: genres holds {genres[n][odd[0]]} for movie {movie} and genre {self.genres[odd[0]]}: "
                    "expected 1 where a movie has a genre and 0 where it has not; save the labels so."
                )
            has = genres[n].astype(bool)
            yield Movie(movie, {m: vector[n] for m, vector in vectors.items()}, tuple(self.genres[has].tolist()))

    def _ids(self, file: Any) -> dict[str, list[str]]:
        """Return the ids of each split. Raises UserError."""
        published = sum(PUBLISHED_SPLITS.values())
        if len(self.movies) == published:
            ends = np.cumsum(list(PUBLISHED_SPLITS.values())).tolist()
            return {split: self.movies[end - n : end] for (split, n), end in zip(PUBLISHED_SPLITS.items(), ends, strict=True)}
        own = _own_split(file, self.root)
        if own is not None:
            return {split: [self.movies[n] for n in rows] for split, rows in own.items()}
        beside = self.root.with_name("split.json")
        if not beside.is_file():
            raise UserError(
                f"{self.root} has {len(self.movies)} movies instead of the published {published}, no attribute split, and no "
                'split.json beside it: put there {"train": [ids], "dev": [ids], "test": [ids]}.'
            )
        return read_split_file(beside)


def _opened(path: Path) -> Any:
    """Return the open h5py.File, in which all parts have a row per movie. Raises UserError."""
    try:
        import h5py
    except ImportError as missing:
        raise UserError(f'{path} needs h5py, which is not installed: pip install "gmu-lightning[hdf5]".') from missing
    try:
        file = h5py.File(path, "r")
    except OSError as damage:
        with path.open("rb") as raw:
            why = looks_like(raw.read(1024)) or damage
        raise UserError(f"{path} cannot be read as HDF5 ({why}): download it again.") from damage
    try:
        _check_parts(file, path)
    except UserError:
        file.close()
        raise
    except Exception as damage:  # a damaged file may raise any exception
        file.close()
        raise UserError(f"{path} cannot be read as HDF5 ({first_line(damage)}): download it again.") from damage
    return file


def _check_parts(file: Any, path: Path) -> None:
    """Check the parts of an HDF5 file, before their values are read.

    A part can stand for bytes of any other file, and a few bytes for any number of values. Raises UserError for these.
    """
    import h5py

    parts: dict[str, Any] = {
        name: file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None for name in AXES
    }
    shapes = {name: getattr(part, "shape", None) or () for name, part in parts.items()}
    movies = shapes["imdb_ids"][:1]
    odd = [name for name, axes in AXES.items() if len(shapes[name]) != axes or shapes[name][:1] != movies]
    if odd:
        has = ", ".join(file)
        raise UserError(f"{path} lacks {', '.join(odd)} with a row per movie (it has {has}): download the published file again.")
    for name, part in parts.items():
        if part.external or part.is_virtual:
            raise UserError(f"{path} is refused: its {name} is the content of another file; download the published file again.")
        rows, *widths = part.shape
        chunk = math.prod(part.chunks or ()) * part.dtype.itemsize
        if rows > MOST_ROWS or max(*widths, part.dtype.itemsize, 0) > WIDEST or chunk > LARGEST_CHUNK:
            raise UserError(f"{path} is refused: the shape {part.shape} of its {name} is impossible for a data set of movies.")
        if part.dtype.kind not in KINDS.get(name, "fiub"):
            raise UserError(f"{path}: its {name} holds {part.dtype}, expected {'ids' if name == 'imdb_ids' else 'numbers'}.")


def _target_names(genres: Any, path: Path) -> list[str]:
    try:
        names = json.loads(genres.attrs["target_names"])
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):  # RecursionError is one
        names = None
    if not isinstance(names, list) or len(names) != genres.shape[1] or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: target_names of genres is no JSON list of its {genres.shape[1]} columns' names: download it again."
        )
    return names


def _own_split(file: Any, path: Path) -> dict[str, list[int]] | None:
    """Return the rows of each split by Fuel's attribute `split`, or None if the file lacks the attribute.

    A row of the attribute names a split, a source (a part of the file), and the source's rows in this split: from `start` to
    `stop`, or the list behind the reference `indices`. All sources of a split must have the same rows.

    Raises:
        UserError: the attribute is no such table, lacks a split, names rows beyond the file, or contradicts itself.
    """
    try:
        table = file.attrs.get("split")
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as damage:
        raise UserError(f"{path}: its attribute split cannot be read ({damage}): write {FUEL} again.") from damage
    if table is None:
        return None
    fields = getattr(getattr(table, "dtype", None), "names", None) or ()
    if np.ndim(table) != 1 or any(field not in fields for field in FIELDS):
        raise UserError(f"{path}: its attribute split has no rows of {', '.join(FIELDS)}: expected {FUEL}.")
    found: dict[str, list[int]] = {}
    for entry in table:
        if "available" in fields and not np.all(entry["available"]):
            continue
        name, source = _text(entry["split"]), _text(entry["source"])
        rows = _rows(file, entry, fields, f"{path}: its attribute split gives {name} {source}")
        if found.setdefault(name, rows) != rows:
            raise UserError(f"{path}: its attribute split gives {name} other rows in {source} than elsewhere: expected {FUEL}.")
    by_split = {split: next((found[name] for name in FILE_NAMES[split] if name in found), []) for split in SPLITS}
    for split, rows in by_split.items():
        if not rows:
            raise UserError(
                f"{path}: its attribute split has no rows for {' or '.join(FILE_NAMES[split])}, "
                f"only for {', '.join(found) or 'nothing'}: expected {FUEL}."
            )
    return by_split


def _rows(file: Any, entry: Any, fields: tuple[str, ...], given: str) -> list[int]:
    """Return the rows that an entry of Fuel's attribute names; `given` begins the sentence of a UserError."""
    count = len(file["imdb_ids"])
    try:
        listed = "indices" in fields and bool(entry["indices"])
        start, stop = (int(np.ravel(entry[field])[0]) for field in ("start", "stop"))
        rows = [int(row) for row in np.ravel(file[entry["indices"]][...])] if listed else None
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as damage:
        raise UserError(f"{given} rows that cannot be read ({damage}): expected {FUEL}.") from damage
    inside = 0 <= start <= stop <= count if rows is None else all(0 <= row < count for row in rows)
    if not inside:
        outside = f"{start} to {stop}" if rows is None else f"{min(rows)} to {max(rows)}"
        raise UserError(f"{given} the rows {outside}, and the file has {count}: expected {FUEL}.")
    return list(range(start, stop)) if rows is None else rows


def _text(name: Any) -> str:
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
