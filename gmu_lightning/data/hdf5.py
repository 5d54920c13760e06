"""MM-IMDb as its authors extracted it: one HDF5 file with a mean word2vec vector and a VGG vector per movie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.fuel import own_split
from gmu_lightning.data.layouts import FirstUse
from gmu_lightning.data.media import Ids
from gmu_lightning.data.raw import read_split_file
from gmu_lightning.files import looks_like
from gmu_lightning.movie import Movie, UserError

FILE = "multimodal_imdb.hdf5"
PUBLISHED_SPLITS = {"train": 15552, "val": 2608, "test": 7799}  # the published file's rows, in this order
COLUMNS = {"text": "features", "image": "vgg_features"}
PARTS = {"features": 2, "vgg_features": 2, "genres": 2, "imdb_ids": 1}  # their axes
WINDOW = 512  # rows read at a time


class Hdf5Layout:
    """`multimodal_imdb.hdf5`: `features` (N, 300), `vgg_features` (N, 4096), `genres` (N, C) with the attribute `target_names`.

    The published file's rows are train, dev, test in that order. A file of another size has its own attribute `split`, as Fuel
    writes it (github.com/mila-iqia/fuel, fuel/datasets/hdf5.py, line 235), or a `split.json` beside it.

    Raises:
        UserError: h5py is not installed, or the file is damaged, lacks a part, or comes without a split.
    """

    name = "hdf5"

    def __init__(self, path: Path):
        self.root = path
        with _opened(path) as file:
            self.movies = [_text(name) for name in file["imdb_ids"][:]]
            self.genres = np.array(_target_names(file["genres"], path))
            own = None if len(self.movies) == sum(PUBLISHED_SPLITS.values()) else own_split(file, path)
        self.ids = self._split() if own is None else {split: [self.movies[n] for n in rows] for split, rows in own.items()}
        self.first = FirstUse(self.ids)
        self.row = {movie: n for n, movie in reversed(list(enumerate(self.movies)))}
        self.known = Ids(self.row, self.first.where)

    def record_file(self, id: str, split: str) -> str:
        """One file holds all."""
        return self.root.name

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """`content["text"]` is float32 (300,), `content["image"]` float32 (4096,)."""
        places: list[tuple[str, int]] = []
        for n, movie in enumerate(self.ids[split]):
            if self.first.repeated(movie, split, n, self.root.name, audit):
                continue
            name = self.known.find(movie)
            if name is not None:
                places.append((movie, self.row[name]))
            else:
                audit.add(
                    movie,
                    self.root.name,
                    split,
                    "broken_json",
                    "removed",
                    f"the split file names it, imdb_ids (such as {self.movies[0]}) does not",
                )
        with _opened(self.root) as file:
            for start in range(0, len(places), WINDOW):
                yield from self._window(file, places[start : start + WINDOW])

    def _window(self, file: Any, places: list[tuple[str, int]]) -> Iterator[Movie]:
        rows, back = np.unique([row for _, row in places], return_inverse=True)  # h5py wants rows that rise
        first, last = int(rows[0]), int(rows[-1]) + 1
        chosen: Any = slice(first, last) if last - first == len(rows) else rows
        try:
            vectors = {m: file[column][chosen].astype(np.float32) for m, column in COLUMNS.items()}
            genres = file["genres"][chosen]
        except OSError as damage:
            raise UserError(f"{self.root} is damaged between rows {first} and {last} ({damage}): download it again.") from damage
        for (movie, _), n in zip(places, back.tolist(), strict=True):
            has = self._labels(genres[n], movie)
            yield Movie(movie, {m: vector[n] for m, vector in vectors.items()}, tuple(self.genres[has].tolist()))

    def _labels(self, row: np.ndarray, movie: str) -> np.ndarray:
        """Return a movie's labels as bool (C,). Raises UserError where one is neither 0 nor 1."""
        odd = np.flatnonzero(~np.isin(row, (0, 1)))
        if odd.size:
            raise UserError(
                f"{self.root}: genres holds {row[odd[0]]} for movie {movie} and genre {self.genres[odd[0]]}: "
                "expected 1 where a movie has a genre and 0 where it has not; save the labels so."
            )
        return row.astype(bool)

    def _split(self) -> dict[str, list[str]]:
        published = sum(PUBLISHED_SPLITS.values())
        if len(self.movies) == published:
            ends = np.cumsum(list(PUBLISHED_SPLITS.values())).tolist()
            return {split: self.movies[end - n : end] for (split, n), end in zip(PUBLISHED_SPLITS.items(), ends, strict=True)}
        beside = self.root.with_name("split.json")
        if not beside.is_file():
            raise UserError(
                f"{self.root} has {len(self.movies)} movies instead of the published {published}, no attribute split, and no "
                'split.json beside it: put there {"train": [ids], "dev": [ids], "test": [ids]}.'
            )
        return read_split_file(beside)


def _opened(path: Path) -> Any:
    """The open h5py.File, all parts there and of one length."""
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
    shapes = {name: getattr(file.get(name), "shape", ()) for name in PARTS}
    movies = shapes["imdb_ids"][:1]
    odd = [name for name, axes in PARTS.items() if len(shapes[name]) != axes or shapes[name][:1] != movies]
    if odd:
        has = ", ".join(file)
        file.close()
        raise UserError(f"{path} lacks {', '.join(odd)} with a row per movie (it has {has}): download the published file again.")
    return file


def _target_names(genres: Any, path: Path) -> list[str]:
    try:
        names = json.loads(genres.attrs["target_names"])
    except (KeyError, TypeError, ValueError):
        names = None
    if not isinstance(names, list) or len(names) != genres.shape[1] or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: target_names of genres is no JSON list of its {genres.shape[1]} columns' names: download it again."
        )
    return names


def _text(name: Any) -> str:
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
