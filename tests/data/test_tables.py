"""Read tables of metadata cell by cell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from gmu_lightning.data.readers.metadata_table import read_table
from gmu_lightning.movie import UserError


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "metadata.csv"
    path.write_text(text, encoding="utf-8")
    return path


def lines_of(folder: Path, *rows: Any) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["1999", " 2001.5 ", ""], ["1999", "2001.5", None]),
        (["1999", "unknown", "\\N"], ["1999", "unknown", None]),
        (["Ann|Bo | Cy", "Ann", ""], [["Ann", "Bo", "Cy"], "Ann", None]),
        (['[{"id": 1, "name": "Ann"}]', "[{'id': 2, 'name': 'Cy, Jr'}]", "[]"], [["Ann"], ["Cy, Jr"], None]),
        (["x" * 200_000, "[draft]", "__import__('os').getcwd()"], ["x" * 200_000, "[draft]", "__import__('os').getcwd()"]),
    ],
)
def test_each_cell_of_a_csv_file_is_read_by_itself(tmp_path, cells, read):
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    path = csv_of(tmp_path, "id,x\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(quoted)))
    assert read_table(path) == {str(n): {"x": value} for n, value in enumerate(read)}


def test_the_csv_limit_is_restored(tmp_path):
    limit = csv.field_size_limit()
    read_table(csv_of(tmp_path, "id,x\n1," + "y" * 150_000 + "\n"))
    assert csv.field_size_limit() == limit


def test_each_cell_of_json_lines_is_read_by_itself(tmp_path):
    cells = [1999, "2001", True, None, ["Ann", "Bo"], [{"name": "Ann"}], {"lead": {}}, float("nan"), 10**400]
    read = [1999.0, "2001", 1.0, None, ["Ann", "Bo"], ["Ann"], {"unreadable": "{'lead': {}}"}, None]
    table = read_table(lines_of(tmp_path, *({"id": n, "x": cell} for n, cell in enumerate(cells))))
    assert [row["x"] for row in table.values()][:-1] == read
    assert list(table["8"]["x"]) == ["unreadable"]


def test_a_number_of_thousands_of_digits_is_one_unfit_cell(tmp_path):
    path = lines_of(tmp_path, '{"id": 1, "x": ' + "9" * 5000 + ', "y": 2}')
    assert read_table(path) == {"1": {"x": "9" * 40 + "…", "y": 2.0}}


def test_every_row_has_all_columns(tmp_path):
    path = lines_of(tmp_path, {"id": "1", "year": 1999}, "", {"id": "2", "country": "France"})
    assert read_table(path) == {"1": {"year": 1999.0, "country": None}, "2": {"year": None, "country": "France"}}


def test_columns_may_be_left_out_by_name(tmp_path):
    path = csv_of(tmp_path, "\ufeffid,year,country\n1,1999,France\n")
    assert read_table(path, ["country"]) == {"1": {"year": "1999"}}
    with pytest.raises(UserError, match=r"data.leave_out names yaer, which is no column of .*metadata.csv: choose among year"):
        read_table(path, ["yaer"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty: expected a header"),
        ("id,year\n", "has no rows"),
        ("movie,year\n1,1999\n", "row 1 has no id, only movie, year"),
        ("id,year\n1,1999\n1,2000\n", "two rows for id 1"),
        ("id,year\n1,1999,France\n", "line 2: it has 3 cells, the header 2"),
        ("id,year,year\n1,1999,2000\n", "has two columns named year"),
        ('id,year\n1,"1999\n', "metadata.csv:2 opens a quote"),
    ],
)
def test_a_broken_csv_is_named_with_what_is_wrong(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read_table(csv_of(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"id": "2", "year"', "cannot be read .line 2"),
        ("[1]", "line 2 holds a list"),
        ('{"id": null}', "row 2 has no id"),
        ('{"id": true}', "row 2 has no id"),
        ('{"id": "2", "cast": ' + "[" * 100_000, "cannot be read .line 2"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path, line, sentence):
    with pytest.raises(UserError, match=sentence):
        read_table(lines_of(tmp_path, {"id": "1", "year": 1999}, line))
