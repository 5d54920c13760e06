"""A task with a known answer, as a data set: movies are generated in five modalities, and their truth stands beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from filelock import FileLock

from gmu_lightning.data.arrays import numbers
from gmu_lightning.data.audit import Audit, kind_of_missing
from gmu_lightning.data.media import Folder, Ids
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.planted_content import SENTENCES, plot, poster, row, title
from gmu_lightning.data.planted_plan import Plan, draw, split_sizes
from gmu_lightning.data.planted_trailers import frames, sound
from gmu_lightning.data.raw import RawLayout
from gmu_lightning.data.store import Store
from gmu_lightning.data.tables import read_table
from gmu_lightning.files import digest
from gmu_lightning.movie import MODALITIES, ArrayFile, BadContent, Movie, UserError

FEWEST_MOVIES = 6
DEFAULT = "text+image"
ARRAYS = {"video": frames, "audio": sound}
TABLE = "metadata.jsonl"


def generate(folder: Path, movies: int, seed: int, levels: int = 4, modalities: Sequence[str] = ("text", "image")) -> Path:
    """Write the task in MM-IMDb's raw layout, with its answer beside it. Same seed, same bytes.

    The folder appears whole or not at all. It holds `split.json`, `dataset/<id>.json` (with a plot where text is planted) and,
    of the modalities that are planted, `dataset/<id>.jpeg`, `video/<id>.npy` (T, 32), `audio/<id>.npy` (16, T), both float16, and
    `metadata.jsonl`, a row a movie; and, for whoever judges a fusion and never for training, `truth.jsonl` (a movie's switch,
    level and claims) and `genres.json`.

    Args:
        movies: all splits together; two thirds are train.
        levels: number of confidences; a modality shows at most `levels - 1` assurances.
        modalities: those that the switch is drawn among, in whatever order.

    Raises:
        UserError: too few movies, a negative seed, levels out of range, or the folder already holds something.
    """
    folder = Path(folder).expanduser()
    if movies < FEWEST_MOVIES:
        raise UserError(f"data.movies={movies} is too few for three splits: ask for at least {FEWEST_MOVIES}.")
    if seed < 0:
        raise UserError(f"data.seed={seed} is no seed: give 0 or more.")
    if not 2 <= levels <= SENTENCES + 1:
        raise UserError(f"levels={levels} cannot be shown in {SENTENCES} sentences: choose 2 to {SENTENCES + 1}.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"data.root={folder} already holds something, and nothing is overwritten: choose a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    planted = tuple(m for m in MODALITIES if m in modalities)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "planted"
        for name in ("dataset", *(m for m in ARRAYS if m in planted)):
            (whole / name).mkdir(parents=True)
        _write(whole, split_sizes(movies), levels, planted, np.random.default_rng(seed))
        whole.replace(folder)
    return folder


def _write(folder: Path, sizes: dict[str, int], levels: int, modalities: tuple[str, ...], rng: np.random.Generator) -> None:
    plan = _draw_until_complete(sizes, levels, modalities, rng)
    labels, confidence = plan.labels, plan.confidence
    splits = np.repeat(list(sizes), list(sizes.values()))
    ids: dict[str, list[str]] = {split: [] for split in sizes}
    truth, table = [], []
    for n, split in enumerate(splits.tolist()):
        movie = f"{n + 1:07d}"
        ids[split].append(movie)
        claims = {m: _named(plan, plan.claims[n, i]) for i, m in enumerate(modalities)}
        sure = dict(zip(modalities, confidence[n].tolist(), strict=True))
        record = {"title": title(rng), "year": int(rng.integers(1930, 2016)), "genres": _named(plan, labels[n])}
        if "text" in claims:
            record["plot"] = [plot(claims["text"], sure["text"], rng)]
        _write_json(folder / "dataset" / f"{movie}.json", record)
        if "image" in claims:
            picture = poster(claims["image"], sure["image"] / (levels - 1), rng)
            picture.save(folder / "dataset" / f"{movie}.jpeg", quality=90)
        for m in (m for m in ARRAYS if m in claims):
            np.save(folder / m / f"{movie}.npy", ARRAYS[m](claims[m], sure[m] / (levels - 1), rng))
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
    """A plan in which every split of four movies or more shows every genre, so that small demos have no undefined score."""
    while True:
        plan = draw(sum(sizes.values()), modalities, levels, rng)
        parts = np.split(plan.labels, np.cumsum(list(sizes.values()))[:-1])
        if all(part.any(axis=0).all() for part in parts if len(part) >= 4):
            return plan


def _named(plan: Plan, chosen: np.ndarray) -> list[str]:
    return [genre for genre, yes in zip(plan.genres, chosen, strict=True) if yes]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")


class Planted(MovieData):
    """The task as a data set, read like any other; its truth stands beside it and is never read in training.

    Args:
        root: a folder that `generate` wrote, or that it is to write; None keeps one in the store.
        modalities: those that the switch is drawn among, joined by `+`.
        movies: all splits together, where it is to be written.
        levels: of confidence.
        seed: of the generator, and of `limit`.
        options: those of every data set.

    Raises:
        UserError: `modalities` names one that does not exist, or one twice; or the folder holds a task of other ones.
    """

    modalities = MODALITIES
    layout = "raw"

    def __init__(
        self,
        root: str | None = None,
        modalities: str = DEFAULT,
        movies: int = 2400,
        levels: int = 4,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(root, seed=seed, **options)
        self.planted = _planted(modalities)
        self.wanted, self.levels = movies, levels

    @classmethod
    def offers(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        """Those that are planted."""
        return _planted(node.get("modalities", DEFAULT))

    def open(self, store: Store) -> None:
        """Generate what is not there yet."""
        folder = self._folder(store)
        if self.root is None:
            with FileLock(_beside(folder)):
                self._generated(folder)
        else:
            self._generated(folder)
        self.raw = RawLayout(folder)
        table = folder / TABLE
        self.table = read_table(table) if "metadata" in self.planted and table.exists() else {}
        ids = self.raw.first.where
        self.rows_of = Ids(self.table, ids)
        self.arrays = {m: Folder(folder / m, (".npy",), ids) for m in ARRAYS if m in self.planted}

    @property
    def folder(self) -> Path:
        """Where the movies were generated."""
        return self.raw.root

    def pending(self, store: Store) -> str | None:
        """Whether it has to be generated."""
        return None if self._folder(store).exists() else f"{self.wanted} movies to be generated in {self._folder(store)}"

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """As MM-IMDb's layout, and `content["video"]`, `content["audio"]` (ArrayFile), `content["metadata"]` (a row, dict)."""
        noted = Audit()
        for movie in self.raw.read(split, noted):
            content = {m: said for m, said in movie.content.items() if m in self.planted}
            for modality, folder in self.arrays.items():
                try:
                    content[modality] = ArrayFile(folder.content(movie.id, modality), numbers)
                except BadContent as bad:
                    file = f"{modality}/{folder.name(movie.id) or f'{movie.id}.npy'}"
                    noted.add(movie.id, file, split, bad.kind, "kept_absent", bad.detail, modality=modality)
            row = self.rows_of.find(movie.id)
            if row is not None:
                content["metadata"] = self.table[row]
            elif "metadata" in self.planted:
                noted.add(movie.id, TABLE, split, kind_of_missing("metadata"), "kept_absent", "it has no row")
            yield Movie(movie.id, content, movie.genres)
        never = {kind_of_missing(m) for m in MODALITIES if m not in self.planted}
        audit.problems += [problem for problem in noted.problems if problem.kind not in never]

    def record_file(self, id: str, split: str) -> str:
        """A file a movie."""
        return self.raw.record_file(id, split)

    def _generated(self, folder: Path) -> None:
        if not (folder / "split.json").exists():
            generate(folder, self.wanted, self.seed, self.levels, self.planted)
        held = _held(folder)
        if held and held != self.planted:
            raise UserError(
                f"data.root={folder} was planted with {'+'.join(held)} and not with {'+'.join(self.planted)}: "
                f"set data.modalities={'+'.join(held)}, or choose a new folder"
            )

    def _folder(self, store: Store) -> Path:
        name = digest(["planted", self.planted, self.wanted, self.seed, self.levels])[:16]
        return store.root / "planted" / name if self.root is None else Path(self.root).expanduser()


def _planted(joined: str) -> tuple[str, ...]:
    """The names in `data.modalities`, in the order of `MODALITIES`, so that one task has one name. Raises UserError."""
    names = joined.split("+")
    if not set(names) <= set(MODALITIES) or len(set(names)) < len(names):
        raise UserError(f"data.modalities={joined} cannot be planted: join some of {', '.join(MODALITIES)} by +, each once")
    return tuple(m for m in MODALITIES if m in names)


def _held(folder: Path) -> tuple[str, ...]:
    """The modalities of the task in a folder; none where its truth was taken away."""
    truth = folder / "genres.json"
    kinds = set(json.loads(truth.read_text(encoding="utf-8")).values()) if truth.exists() else set()
    return tuple(m for m in MODALITIES if m in kinds)


def _beside(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f".{folder.name}.lock")
