"""Arrange rows of predictions as runs: one for each seed, with a row for every movie of val and test in the data's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from gmu_lightning.adoption.tables import PredictedTable
from gmu_lightning.data.readers.tables import is_table
from gmu_lightning.data.table import MovieTable
from gmu_lightning.decisions import Task
from gmu_lightning.movie import UserError

SCORED = ("val", "test")
EPSILON = 1e-15  # logits are those of probabilities at least this far from 0 and 1, so that all are finite
Place = tuple[PredictedTable, int]  # a row


@dataclass(frozen=True)
class AdoptedRun:
    """The predictions of one seed.

    Attributes:
        seed: of the run.
        files: that hold its rows.
        probabilities: {`val` or `test`: (N, C)}, in the order of the split and of the genres.
    """

    seed: int
    files: tuple[Path, ...]
    probabilities: Mapping[str, np.ndarray]

    @property
    def is_hard(self) -> bool:
        """Whether every probability is 0 or 1."""
        return all(bool(np.isin(of, (0, 1)).all()) for of in self.probabilities.values())

    def logits(self, split: str, task: Task) -> np.ndarray:
        """Return the finite logits (N, C) of a split, whose sigmoid, or softmax for `multiclass`, gives the probabilities."""
        p = np.clip(self.probabilities[split], EPSILON, 1 - EPSILON)
        return np.log(p) if task == "multiclass" else np.log(p) - np.log1p(-p)


def files_in(paths: Sequence[Path]) -> list[Path]:
    """Return the files among these paths, and for each folder the tables in it, sorted by name.

    Raises:
        UserError: a folder holds no table.
    """
    found = []
    for path in paths:
        inside = [file for file in sorted(path.iterdir()) if file.is_file() and is_table(file)] if path.is_dir() else [path]
        if not inside:
            raise UserError(f"predictions={path} holds no table: give a .csv, .tsv, .jsonl, .json or .parquet file")
        found += inside
    return found


def runs_of(predicted: Sequence[PredictedTable], table: MovieTable, seed: int | None) -> list[AdoptedRun]:
    """Return the runs in tables of predictions, by seed.

    A column of seeds tells the runs apart. Without it, files that share no movie form one run, and a file with a movie of the run
    before begins the next one.

    Args:
        predicted: as read, in the order typed.
        table: of the data set.
        seed: of the first run without a column of seeds; None for 1.

    Raises:
        UserError: a movie is unknown, missing, twice in a run, or in another split than in the data, or two runs are equal.
    """
    splits = _splits(table)
    for one in predicted:
        _check_known(one, table, splits)
        _check_splits(one, splits)
    runs = []
    for number, rows in sorted(_by_seed(predicted, seed).items()):
        files = tuple(dict.fromkeys(of.path for of, _ in rows.values()))
        _check_complete(rows, table, files)
        found = {
            split: np.stack([of.probabilities[n] for of, n in (rows[movie] for movie in table.ids[split])]) for split in SCORED
        }
        runs.append(AdoptedRun(number, files, found))
    for a, b in combinations(runs, 2):
        if all(np.array_equal(a.probabilities[split], b.probabilities[split]) for split in SCORED):
            raise UserError(
                f"seeds {a.seed} and {b.seed} predict the same for every movie, so they are one run: give predictions "
                "of other samples of train, prompts or random seeds"
            )
    return runs


def _splits(table: MovieTable) -> dict[str, str]:
    return {movie.id: str(split) for movie, split in zip(table.movies, table.splits, strict=True)}


def _check_known(one: PredictedTable, table: MovieTable, splits: Mapping[str, str]) -> None:
    removed = {problem.id for problem in table.audit.problems if problem.action == "removed"}
    unknown = [n for n, movie in enumerate(one.ids) if movie not in splits and movie not in removed]
    if not unknown:
        return
    first = one.ids[unknown[0]]
    alike = next((movie for movie in splits if movie.lstrip("0") == first.lstrip("0")), None)
    hint = f"; the data have {alike}: write ids as text, with their zeros" if alike else f"; ids are such as {next(iter(splits))}"
    if len(unknown) == len(one.ids) and not alike:
        raise UserError(
            f"{one.path} has no movie of the data: its ids are such as {first[:40]} ({one.places[0]}), and the data's such as "
            f"{next(iter(splits))}: check data.root, and under data=files name the column of ids, as in data.columns.id=NAME"
        )
    raise UserError(
        f"{one.path} has {len(unknown):,} of {len(one.ids):,} rows whose movie is not in the data, the first in "
        f"{one.places[unknown[0]]} ({first[:40]}): remove them, or check data.root and data.limit{hint}"
    )


def _check_splits(one: PredictedTable, splits: Mapping[str, str]) -> None:
    rows = enumerate(zip(one.ids, one.splits or (), strict=False))
    other = [n for n, (movie, split) in rows if split is not None and splits.get(movie) not in (None, "", split)]
    if other:
        movie, place = one.ids[other[0]], one.places[other[0]]
        assert one.splits is not None
        raise UserError(
            f"{one.path} has {len(other):,} movies in another split than the data, the first {movie} ({one.splits[other[0]]} in "
            f"{place}, {splits[movie]} in the data): predict the data's own splits, or check the options of data"
        )


def _by_seed(predicted: Sequence[PredictedTable], seed: int | None) -> dict[int, dict[str, Place]]:
    """Return {seed: {id: its row}}."""
    with_seeds = [one for one in predicted if one.seeds is not None]
    if 0 < len(with_seeds) < len(predicted):
        other = next(one for one in predicted if one.seeds is None)
        raise UserError(f"{with_seeds[0].path} has a column of seeds and {other.path} has none: add it there, or remove it")
    if with_seeds and seed is not None:
        raise UserError(f"{with_seeds[0].path} has a column of seeds: leave out seed={seed}, or remove the column")
    found: dict[int, dict[str, Place]] = {}
    number = 1 if seed is None else seed
    for one in predicted:
        if one.seeds is None and found.get(number, {}).keys() & set(one.ids):
            number += 1
        for n, movie in enumerate(one.ids):
            rows = found.setdefault(number if one.seeds is None else one.seeds[n], {})
            if movie in rows:
                _refuse_twice(one, n, rows[movie])
            rows[movie] = one, n
    return found


def _refuse_twice(one: PredictedTable, n: int, before: Place) -> None:
    count = len(one.ids) - len(set(zip(one.ids, one.seeds or [0] * len(one.ids), strict=True)))
    often = f"{count:,} rows" if count > 1 else "a row"
    raise UserError(
        f"{one.path} has {often} of a movie that has a row already, the first in {one.places[n]} ({one.ids[n][:40]}, before in "
        f"{before[0].places[before[1]]}): keep one, or add a column seed"
    )


def _check_complete(rows: Mapping[str, Place], table: MovieTable, files: Sequence[Path]) -> None:
    names = ",".join(map(str, files))
    for split in SCORED:
        wanted = table.ids[split]
        lacking = [movie for movie in wanted if movie not in rows]
        if len(lacking) == len(wanted):
            why = "test is what runs are compared on"
            if split == "val":
                why = "val tunes thresholds and calibration, as for every run"
            raise UserError(f"{names} has no movie of {split}: predict its {len(wanted):,} movies too, because {why}")
        if lacking:
            raise UserError(
                f"{names} lacks {len(lacking):,} of {len(wanted):,} {split} movies, the first {lacking[0]}: predict every "
                "movie of val and test, since scores are over the whole split"
            )
