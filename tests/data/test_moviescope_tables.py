"""Read Moviescope's metadata, and refuse columns that reveal the genres."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmu_lightning.data.audit import columns_summary
from gmu_lightning.data.moviescope import Moviescope
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.metadata import MetadataVector
from gmu_lightning.experiment.build import prepare_column
from gmu_lightning.movie import UserError

from .moviescope_files import write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight whole movies in the full layout."""
    return write(tmp_path / "moviescope")


def loaded(root: Path, store: Store, modalities: tuple[str, ...] = ("metadata",), **arguments: Any) -> MovieTable:
    return Moviescope(str(root), **arguments).load(modalities, store)


def refused(root: Path, store: Store, modalities: tuple[str, ...] = ("metadata",), **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        loaded(root, store, modalities, **arguments)
    return str(error.value)


def table_of(root: Path, **columns: list) -> None:
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    (root / "metadata.jsonl").write_text("".join(json.dumps({"id": 3015 + n, **row}) + "\n" for n, row in enumerate(rows)))


def test_a_table_is_read_where_there_are_no_matrices(root, store):
    table_of(root, year=[*range(1990, 1996), None, 1999], cast=[["Ann"]] * 6 + [None, ["Bo"]])
    assert isinstance(loaded(root, store, ("metadata",)).movies[0].content["metadata"], np.ndarray)
    shutil.rmtree(root / "Metadata_matrices")
    data = loaded(root, store, ("metadata",))
    assert data.movies[0].content["metadata"] == {"year": 1990.0, "cast": ["Ann"]}
    assert [(p.id, p.file, p.kind, p.detail) for p in data.audit.problems] == [
        ("3021", "metadata.jsonl", "missing_metadata", "its row is empty")
    ]


def test_a_revealing_column_is_refused_and_may_be_left_out(root, store):
    labels = [json.loads(line)["label"] for line in (root / "train.jsonl").read_text().splitlines()]
    table_of(root, year=list(range(8)), about=[*("|".join(reversed(label)) for label in labels), *["x"] * 4], rating=[5.0] * 8)
    assert "column about holds the movies' genres" in refused(root, store, ("metadata",), metadata="table")
    assert loaded(root, store, ("text",), metadata="table").ids["train"]
    data = loaded(root, store, ("metadata",), metadata="table", leave_out=["about"])
    assert data.movies[0].content["metadata"] == {"year": 0.0, "rating": 5.0}
    assert [warning.partition(":")[0] for warning in data.warnings if "rating" in warning] == ["audience"]


def test_a_revealing_column_of_the_matrices_is_refused(tmp_path, store):
    root = write(tmp_path / "moviescope", movies=(20, 4, 4))
    path = root / "Metadata_matrices" / "train_metadata.npy"
    matrix = np.load(path)
    matrix[:, 300] = ["Horror" in json.loads(line)["label"] for line in (root / "train.jsonl").read_text().splitlines()]
    np.save(path, matrix)
    assert refused(root, store, ("metadata",), leave_out=[7]) == (
        f"{root / 'Metadata_matrices'}: column 300 tells Horror (value 1 stands where Horror does in 100.0 % of train), "
        "so nothing is learned from it: set data.leave_out=[7,300]."
    )
    data = loaded(root, store, ("metadata",), leave_out=[7, 300])
    assert np.allclose(data.movies[0].content["metadata"], np.delete(matrix[0], [7, 300]))


def test_a_revealing_column_is_found_under_other_ids(tmp_path, store):
    root = write(tmp_path / "moviescope", movies=(40, 4, 4))
    path = root / "Metadata_matrices" / "train_metadata.npy"
    matrix = np.load(path)
    labels = [json.loads(line)["label"] for line in (root / "train.jsonl").read_text().splitlines()]
    matrix[:, 300] = ["Horror" in label for label in labels]
    np.save(path, matrix)
    rows = {f"tt{3015 + n:07d}": n for n in range(40)}
    path.with_name("train_ids.pickle").write_bytes(pickle.dumps(rows))
    assert "column 300 tells Horror" in refused(root, store)
    shutil.rmtree(root / "Metadata_matrices")
    cells = "".join(f"tt{3015 + n:07d},{int('Horror' in label)}\n" for n, label in enumerate(labels))
    (root / "metadata.csv").write_text(f"id,scary\n{cells}")
    assert "column scary" in refused(root, store)


def with_table(root: Path, store: Store, strict: bool = False, **columns: list) -> tuple[MovieTable, dict[str, Any], np.ndarray]:
    """Prepare the data set with this table, and return its table of movies and the stored rows."""
    shutil.rmtree(root / "Metadata_matrices", ignore_errors=True)
    table_of(root, **columns)
    encoder = MetadataVector(min_count=1, freeze="all")
    data, column = prepare_column(loaded(root, store, strict=strict), encoder, store)
    rows = np.stack([np.full(column.preparation.size, np.nan) if (row := column.row(n)) is None else row for n in range(8)])
    return data, data.report(), rows


def test_the_audit_describes_columns_and_unfit_cells(root, store):
    budget = [1, "N/A", "3", 4, "five", 6, 7, 8]
    data, report, _ = with_table(root, store, budget=budget, year=[*range(8)], kind=["film"] * 8, cast=["a", "b", "a", "b"] * 2)
    assert report["columns"]["budget"] == {
        **{"read_as": "numbers", "why": None, "words": None},
        **{"train": {"filled": 3, "missing": 1, "unfit": 0}, "val": {"filled": 2, "missing": 0, "unfit": 1}},
        "test": {"filled": 2, "missing": 0, "unfit": 0},
    }
    assert [(p["id"], p["file"], p["split"], p["kind"], p["action"], p["detail"]) for p in report["problems"]] == [
        ("3019", "metadata.jsonl", "val", "bad_cell", "kept", "column budget: five is no number that single precision holds")
    ]
    assert [warning for warning in data.warnings if warning.startswith("bad_cell")] == [
        "bad_cell: column budget of metadata is read as numbers, by the majority of the train split it was learned from; "
        "cells that do not fit are missing (1 of 2 in val), and audit.json names them."
    ]
    assert columns_summary(data.cells) == [
        "columns read as numbers: budget, year",
        "columns left out: kind (it is the same for all movies of train)",
        "columns read as words: cast (2 words)",
    ]


@pytest.mark.parametrize("odd", ["unknown", "", None, [1, 2], [{"id": 1}], 1e300, "9,9"])
def test_cells_of_test_leave_train_and_val_unchanged(tmp_path, store, odd):
    roots = [write(tmp_path / name) for name in ("a", "b")]
    minutes, cast = [*range(90, 98)], ["a", "b", "a", "b"] * 2
    _, _, rows = with_table(roots[0], store, minutes=minutes, cast=cast)
    _, _, others = with_table(roots[1], store, minutes=[*minutes[:-1], odd], cast=[*cast[:-1], "c|d"])
    assert np.array_equal(rows[:7], others[:7]) and rows.shape == others.shape


def test_strict_refuses_an_unfit_cell(root, store):
    data, _, _ = with_table(root, store, strict=True, budget=[1, 2, 3, "four", 5, 6, 7, 8], year=[*range(8)])
    with pytest.raises(UserError, match=r"bad_cell 1.*column budget: four is no number"):
        data.raise_if_strict()


def test_leave_out_of_an_unknown_column_is_an_error(root, store):
    for odd in ("year", 312, -1):
        assert f"data.leave_out={odd} names columns of a table, and Metadata_matrices is read" in refused(
            root, store, leave_out=[odd]
        )
