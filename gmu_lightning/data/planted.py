"""A task with a known answer: a hidden switch says, movie by movie, which modality tells the truth.

The latent switch of Arevalo et al. (2017, arXiv 1702.01992), carried over to genres. Every movie has a true
modality s and a common level t. Each modality claims genres of its own and shows a confidence, t + 1 if it is s and t
otherwise: nobody can tell s from one modality, and everybody from the difference between two. A switch genre's label is the
claim of modality s; a single-modality genre's label is the claim of that modality, whatever s is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.planted_content import SENTENCES, plot, poster, title
from gmu_lightning.data.raw import RawLayout
from gmu_lightning.data.store import Store
from gmu_lightning.files import digest
from gmu_lightning.movie import SPLITS, Movie, UserError

SWITCH_GENRES = ("Adventure", "Comedy", "Crime", "Horror", "Romance", "Western")
SINGLE_GENRES = {
    "text": ("Biography", "Mystery"),
    "image": ("Animation", "Fantasy"),
    "video": ("Sport", "War"),
    "audio": ("Music", "Musical"),
    "metadata": ("Documentary", "Short"),
}
CLAIM_SHARE = 0.4
FEWEST_MOVIES = 6


@dataclass(frozen=True)
class Plan:
    """What is planted in N movies of M modalities and C genres.

    Attributes:
        modalities: names, in the order of every M axis.
        kinds: `{genre: "switch" | modality}`, in the order of every C axis.
        switch: (N,) int, the index of the modality that tells the truth.
        level: (N,) int in [0, levels - 2].
        claims: (N, M, C) bool, the genres each modality claims.
    """

    modalities: tuple[str, ...]
    kinds: dict[str, str]
    switch: np.ndarray
    level: np.ndarray
    claims: np.ndarray

    @property
    def genres(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def confidence(self) -> np.ndarray:
        """(N, M) int in [0, levels - 1]: one more in the modality that tells the truth."""
        return self.level[:, None] + (self.switch[:, None] == np.arange(len(self.modalities)))

    @property
    def labels(self) -> np.ndarray:
        """(N, C) bool: of a switch genre the claim of modality s, of any other the claim of its own modality."""
        by_switch = self.claims[np.arange(len(self.switch)), self.switch]
        is_switch = [kind == "switch" for kind in self.kinds.values()]
        return np.where(is_switch, by_switch, self.claims.any(axis=1))

    def rows(self, chosen: np.ndarray) -> Plan:
        """The plan of the chosen movies alone."""
        return Plan(self.modalities, self.kinds, self.switch[chosen], self.level[chosen], self.claims[chosen])


class PlantedVectors(NamedTuple):
    """A plan and one vector per movie and modality that says all the modality claims."""

    inputs: dict[str, np.ndarray]  # {modality: (N, d) float32}
    plan: Plan


def draw(movies: int, modalities: Sequence[str], levels: int, rng: np.random.Generator) -> Plan:
    """Draw the plan of `movies` movies. Claims are independent; a movie without any genre is drawn again."""
    kinds = dict.fromkeys(SWITCH_GENRES, "switch") | {genre: m for m in modalities for genre in SINGLE_GENRES[m]}
    claimable = np.array([[kind in ("switch", m) for kind in kinds.values()] for m in modalities])  # (M, C)
    drawn = 2 * movies + 8
    plan = Plan(
        tuple(modalities),
        kinds,
        rng.integers(len(modalities), size=drawn),
        rng.integers(levels - 1, size=drawn),
        (rng.random((drawn, *claimable.shape)) < CLAIM_SHARE) & claimable,
    )
    return plan.rows(np.flatnonzero(plan.labels.any(axis=1))[:movies])


def split_sizes(movies: int) -> dict[str, int]:
    """Two thirds for train, a sixth each for val and test."""
    return dict(zip(SPLITS, (movies - 2 * (movies // 6), movies // 6, movies // 6), strict=True))


def planted_vectors(
    movies: int,
    modalities: Sequence[str],
    seed: int,
    levels: int = 6,
    dim: int = 32,
    noise: float = 0.05,
) -> PlantedVectors:
    """The task on vectors: a modality's claims (+-1) and centred confidence, mixed at random, plus Gaussian noise."""
    rng = np.random.default_rng(seed)
    plan = draw(movies, modalities, levels, rng)
    inputs = {}
    for m, name in enumerate(modalities):
        claims = plan.claims[:, m, [kind in ("switch", name) for kind in plan.kinds.values()]]
        said = np.column_stack([2.0 * claims - 1.0, plan.confidence[:, m] - (levels - 1) / 2])  # (N, claims + 1)
        mixed = said @ rng.normal(size=(said.shape[1], dim)) / np.sqrt(said.shape[1])
        inputs[name] = (mixed + noise * rng.normal(size=mixed.shape)).astype(np.float32)
    return PlantedVectors(inputs, plan)


def generate(folder: Path, movies: int, seed: int, levels: int = 4) -> Path:
    """Write the task as plots and posters in MM-IMDb's raw layout, with its answer beside it. Same seed, same bytes.

    The folder appears whole or not at all. It holds `split.json`, `dataset/<id>.json`, `dataset/<id>.jpeg`; and, for
    whoever judges a fusion and never for training, `truth.jsonl` (a movie's switch, level and claims) and `genres.json`.

    Args:
        movies: all splits together; two thirds are train.
        levels: number of confidences; a modality shows at most `levels - 1` assurances.

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
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "planted"
        (whole / "dataset").mkdir(parents=True)
        _write(whole, split_sizes(movies), levels, np.random.default_rng(seed))
        whole.replace(folder)
    return folder


def _write(folder: Path, sizes: dict[str, int], levels: int, rng: np.random.Generator) -> None:
    plan = _draw_until_complete(sizes, levels, rng)
    labels, confidence = plan.labels, plan.confidence
    splits = np.repeat(list(sizes), list(sizes.values()))
    ids: dict[str, list[str]] = {split: [] for split in sizes}
    truth = []
    for n, split in enumerate(splits.tolist()):
        movie = f"{n + 1:07d}"
        ids[split].append(movie)
        claims = {m: _named(plan, plan.claims[n, i]) for i, m in enumerate(plan.modalities)}
        record = {
            "title": title(rng),
            "year": int(rng.integers(1930, 2016)),
            "genres": _named(plan, labels[n]),
            "plot": [plot(claims["text"], confidence[n, 0], rng)],
        }
        _write_json(folder / "dataset" / f"{movie}.json", record)
        picture = poster(claims["image"], confidence[n, 1] / (levels - 1), rng)
        picture.save(folder / "dataset" / f"{movie}.jpeg", quality=90)
        switch, level = plan.modalities[plan.switch[n]], int(plan.level[n])
        truth.append({"id": movie, "split": split, "switch": switch, "level": level, "claims": claims})
    _write_json(folder / "split.json", {"train": ids["train"], "dev": ids["val"], "test": ids["test"]})
    _write_json(folder / "genres.json", plan.kinds)
    lines = [json.dumps(row, sort_keys=True) + "\n" for row in truth]
    (folder / "truth.jsonl").write_text("".join(lines), encoding="utf-8")


def _draw_until_complete(sizes: dict[str, int], levels: int, rng: np.random.Generator) -> Plan:
    """A plan in which every split of four movies or more shows every genre, so that small demos have no undefined score."""
    while True:
        plan = draw(sum(sizes.values()), ("text", "image"), levels, rng)
        parts = np.split(plan.labels, np.cumsum(list(sizes.values()))[:-1])
        if all(part.any(axis=0).all() for part in parts if len(part) >= 4):
            return plan


def _named(plan: Plan, chosen: np.ndarray) -> list[str]:
    return [genre for genre, yes in zip(plan.genres, chosen, strict=True) if yes]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n", encoding="utf-8")


class Planted(MovieData):
    """The task as a data set, read like any other; its truth stands beside it and is never read in training.

    Args:
        root: a folder that `generate` wrote, or that it is to write; None keeps one in the store.
        movies: all splits together, where it is to be written.
        levels: of confidence.
        seed: of the generator, and of `limit`.
        options: those of every data set.
    """

    modalities = ("text", "image")
    layout = "raw"

    def __init__(self, root: str | None = None, movies: int = 2400, levels: int = 4, seed: int = 0, **options: Any):
        super().__init__(root, seed=seed, **options)
        self.wanted, self.levels = movies, levels

    def open(self, store: Store) -> None:
        """Generate what is not there yet."""
        folder = self._folder(store)
        if self.root is None:
            with FileLock(_beside(folder)):
                self._generated(folder)
        else:
            self._generated(folder)
        self.raw = RawLayout(folder)

    @property
    def folder(self) -> Path:
        """Where the movies were generated."""
        return self.raw.root

    def pending(self, store: Store) -> str | None:
        """Whether it has to be generated."""
        return None if self._folder(store).exists() else f"{self.wanted} movies to be generated in {self._folder(store)}"

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """As MM-IMDb's own layout."""
        return self.raw.read(split, audit)

    def record_file(self, id: str, split: str) -> str:
        """A file a movie."""
        return self.raw.record_file(id, split)

    def _generated(self, folder: Path) -> None:
        if not (folder / "split.json").exists():
            generate(folder, self.wanted, self.seed, self.levels)

    def _folder(self, store: Store) -> Path:
        name = digest(["planted", self.wanted, self.seed, self.levels])[:16]
        return store.root / "planted" / name if self.root is None else Path(self.root).expanduser()


def _beside(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f".{folder.name}.lock")
