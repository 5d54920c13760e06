"""A data set of generated movies in five modalities, with a known answer."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from gmu_lightning.data.audit import Audit, kind_of_missing
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.mmimdb.layouts import RawLayout
from gmu_lightning.data.planted.content import SENTENCES, Plan, draw, frames, plot, poster, row, sound, split_sizes, title
from gmu_lightning.data.ragged import write_array
from gmu_lightning.data.readers.arrays import numbers
from gmu_lightning.data.readers.layouts import Layout, usable
from gmu_lightning.data.readers.media import Folder, Ids
from gmu_lightning.data.readers.metadata_table import read_table
from gmu_lightning.data.readers.strings import MOST_RECORD
from gmu_lightning.data.store import Store
from gmu_lightning.files import bytes_of, digest
from gmu_lightning.movie import MODALITIES, ArrayFile, Movie, UserError
from gmu_lightning.visible import first_line

FEWEST_MOVIES = 6
DEFAULT = "text+image"
ARRAYS = {"video": frames, "audio": sound}
TABLE = "metadata.jsonl"
KIND = "planted"  # of the store's entries


def generate(folder: Path, movies: int, seed: int, levels: int = 4, modalities: Sequence[str] = ("text", "image")) -> Path:
    """Write the task in MM-IMDb's raw layout, with its answer beside it.

    The same arguments give the same bytes. An interrupted call leaves no folder. The complete folder holds:

    - `split.json`, and `dataset/<id>.json` with title, year, genres and, if text is planted, the plot
    - for each other planted modality `dataset/<id>.jpeg`, `video/<id>.npy` (T, 32) float16, `audio/<id>.npy` (16, T) float16, or
      `metadata.jsonl` with a row per movie
    - the answer, which training never reads: `truth.jsonl` (each movie's switch, level and claims) and `genres.json`

    Args:
        folder: to be created; it may exist if it is empty.
        movies: number of movies in all splits together, at least 6; two thirds are train.
        seed: of all random numbers, at least 0.
        levels: number of confidences, from 2 to 11.
        modalities: the planted modalities, in any order; one of them is true for each movie.

    Returns:
        The folder, with `~` expanded.

    Raises:
        UserError: `movies`, `seed` or `levels` is out of range, `modalities` has an unknown name or one twice, or the
            folder is not empty.
    """
    folder = Path(folder).expanduser()
    _check_ranges(movies, seed, levels)
    planted = _planted("+".join(modalities))
    if _occupied(folder):
        raise UserError(f"data.root={folder} already holds something, and nothing is overwritten: choose a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "planted"
        _write(whole, split_sizes(movies), levels, planted, np.random.default_rng(seed))
        whole.replace(folder)
    return folder


def _check_ranges(movies: int, seed: int, levels: int) -> None:
    if movies < FEWEST_MOVIES:
        raise UserError(f"data.movies={movies} is too few for three splits: ask for at least {FEWEST_MOVIES}.")
    if seed < 0:
        raise UserError(f"data.seed={seed} is no seed: give 0 or more.")
    if not 2 <= levels <= SENTENCES + 1:
        raise UserError(f"levels={levels} cannot be shown in {SENTENCES} sentences: choose 2 to {SENTENCES + 1}.")


def _occupied(folder: Path) -> bool:
    """Return whether a folder holds something, or a file has its name."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _write(folder: Path, sizes: dict[str, int], levels: int, modalities: tuple[str, ...], rng: np.random.Generator) -> None:
    for name in ("dataset", *(m for m in ARRAYS if m in modalities)):
        (folder / name).mkdir(parents=True)
    plan = _draw_until_complete(sizes, levels, modalities, rng)
    labels, confidence = plan.labels, plan.confidence
    splits = np.repeat(list(sizes), list(sizes.values()))
    ids: dict[str, list[str]] = {split: [] for split in sizes}
    truth, table = [], []
    for n, split in enumerate(splits.tolist()):
        movie = f"{n + 1:07d}"
        ids[split].append(movie)
        claims = {m: plan.genres(plan.claims[n, i]) for i, m in enumerate(modalities)}
        sure = dict(zip(modalities, confidence[n].tolist(), strict=True))
        record = {"title": title(rng), "year": int(rng.integers(1930, 2016)), "genres": plan.genres(labels[n])}
        if "text" in claims:
            record["plot"] = [plot(claims["text"], sure["text"], rng)]
        _write_json(folder / "dataset" / f"{movie}.json", record)
        if "image" in claims:
            picture = poster(claims["image"], sure["image"] / (levels - 1), rng)
            file = io.BytesIO()  # Pillow overlooks a full disk and leaves half of a picture
            picture.save(file, "JPEG", quality=90)
            (folder / "dataset" / f"{movie}.jpeg").write_bytes(file.getvalue())
        for m in (m for m in ARRAYS if m in claims):
            with (folder / m / f"{movie}.npy").open("wb") as out:
                write_array(out, ARRAYS[m](claims[m], sure[m] / (levels - 1), rng))
        if "metadata" in claims:
            table.append({"id": movie, "year": record["year"], **row(claims["metadata"], sure["metadata"], rng)})
        switch, level = modalities[plan.switch[n]], int(plan.level[n])
        truth.append({"id": movie, "split": split, "switch": switch, "level": level, "claims": claims})
    _write_json(folder / "split.json", {"train": ids["train"], "dev": ids["val"], "test": ids["test"]})
    _write_json(folder / "genres.json", plan.kinds)
    _write_lines(folder / "truth.jsonl", truth)
    if table:
        _write_lines(folder / TABLE, table)


def _draw_until_complete(sizes: dict[str, int], levels: int, modalities: tuple[str, ...], rng: np.random.Generator) -> Plan:
    """Return a plan in which every split of at least four movies has every genre, so that a small demo's scores are defined."""
    while True:
        plan = draw(sum(sizes.values()), modalities, levels, rng)
        parts = np.split(plan.labels, np.cumsum(list(sizes.values()))[:-1])
        if all(part.any(axis=0).all() for part in parts if len(part) >= 4):
            return plan


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")


class Planted(DataSet):
    """Generated movies, read like any other data set. Their true modalities are stored beside them and never read.

    Args:
        root: a folder that `generate` wrote, or that it will write; None for a folder of the store.
        modalities: names of the planted modalities, joined by `+`.
        movies: number of movies to generate, all splits together; it is ignored, as `levels` is, if `root` holds movies already.
        levels: number of confidences.
        seed: of the generator, ignored if `root` holds movies already, and of `limit`.
        **options: those of every `DataSet`.

    Raises:
        UserError: `modalities` has an unknown name, or one twice.
    """

    modalities = MODALITIES

    def __init__(
        self,
        root: str | None = None,
        modalities: str = DEFAULT,
        movies: Annotated[int, Ge(6), Le(10**6)] = 2400,
        levels: Annotated[int, Ge(2)] = 4,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(root, seed=seed, **options)
        self.planted = _planted(modalities)
        self.wanted, self.levels = movies, levels

    @classmethod
    def offers(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the planted modalities. Raises UserError for an unknown name, or one twice."""
        return _planted(node.get("modalities", DEFAULT))

    def pending(self, store: Store) -> str | None:
        """Describe the movies that `open` has to generate first; None if the folder holds files."""
        there = store.has(KIND, self._key) if self.root is None else _occupied(Path(self.root).expanduser())
        folder = store.root / KIND / self._key if self.root is None else Path(self.root).expanduser()
        return None if there else f"{self.wanted} movies to be generated in {folder}"

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        """Return the layout, after generating the movies if the folder is empty or does not exist.

        Raises:
            UserError: an argument is out of range, or the folder holds other files or other modalities.
        """
        if self.root is None:
            folder = store.folder(KIND, self._key, self._fill)
        else:
            folder = Path(self.root).expanduser()
            if not (folder / "split.json").exists():
                generate(folder, self.wanted, self.seed, self.levels, self.planted)
        held = _held(folder)
        if held and held != self.planted:
            raise UserError(
                f"data.root={folder} was planted with {'+'.join(held)} and not with {'+'.join(self.planted)}: "
                f"set data.modalities={'+'.join(held)}, or choose a new folder"
            )
        return PlantedLayout(folder, self.planted)

    @property
    def _key(self) -> str:
        """Name of the folder in the store, a hash of everything that determines its bytes."""
        return digest(["generated", self.planted, self.wanted, self.seed, self.levels])[:16]

    def _fill(self, folder: Path) -> dict[str, Any]:
        """Generate the movies in an empty folder of the store, and return the content of its meta.json."""
        _check_ranges(self.wanted, self.seed, self.levels)
        _write(folder, split_sizes(self.wanted), self.levels, self.planted, np.random.default_rng(self.seed))
        return {"data": f"{self.wanted} generated movies", "seed": self.seed}


class PlantedLayout(RawLayout):
    """MM-IMDb's raw layout, with a file per movie for video and audio, and a table of metadata.

    Args:
        folder: that `generate` wrote.
        planted: the modalities to read; files of others are ignored.
    """

    def __init__(self, folder: Path, planted: Sequence[str]):
        super().__init__(folder)
        self.planted, table = planted, folder / TABLE
        self.table = read_table(table) if "metadata" in planted and table.exists() else {}
        self.rows_of = Ids(self.table, self.first.where)
        self.arrays = {m: Folder(folder / m, (".npy",), self.first.where) for m in ARRAYS if m in planted}

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield movies as `RawLayout` does, with video and audio as an `ArrayFile` and metadata as a table's row (dict).

        The audit is filled after the last movie.
        """
        noted = Audit()
        for movie in super().read(split, noted):
            content = {m: content for m, content in movie.content.items() if m in self.planted}
            arrays = [
                (m, f"{m}/{folder.name(movie.id) or f'{movie.id}.npy'}", partial(folder.content, movie.id, m))
                for m, folder in self.arrays.items()
            ]
            content |= {m: ArrayFile(path, numbers) for m, path in usable(arrays, movie.id, split, noted).items()}
            row = self.rows_of.find(movie.id)
            if row is not None:
                content["metadata"] = self.table[row]
            elif "metadata" in self.planted:
                noted.add(movie.id, TABLE, split, kind_of_missing("metadata"), "kept_absent", "it has no row")
            yield Movie(movie.id, content, movie.genres)
        never = {kind_of_missing(m) for m in MODALITIES if m not in self.planted}
        audit.problems += [problem for problem in noted.problems if problem.kind not in never]


class PlantedDataModule(MovieDataModule):
    """Batches of generated movies, with the arguments of `Planted` and of `MovieDataModule`."""

    reads = Planted


def _planted(joined: str) -> tuple[str, ...]:
    """Return the names in `data.modalities`, in the order of `MODALITIES`, so that a task has one name. Raises UserError."""
    names = joined.split("+")
    if not set(names) <= set(MODALITIES) or len(set(names)) < len(names):
        raise UserError(f"data.modalities={joined} cannot be planted: join some of {', '.join(MODALITIES)} by +, each once")
    return tuple(m for m in MODALITIES if m in names)


def _held(folder: Path) -> tuple[str, ...]:
    """Return the modalities of the task in a folder; empty if its answer was removed."""
    truth = folder / "genres.json"
    try:
        kinds = set(json.loads(bytes_of(truth, MOST_RECORD)).values()) if truth.exists() else set()
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{truth} holds no object of genres ({first_line(error)}): restore it, or choose a new folder") from error
    return tuple(m for m in MODALITIES if m in kinds)
