"""Read a table of the user's own: columns, labels, splits, media and faults."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gmu_lightning.data.draws import drawn
from gmu_lightning.data.files.dataset import Files
from gmu_lightning.data.readers.tables import read_records
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.movie import SPLITS, IncompatibleChoices, UserError

GENRES = ("Drama", "Comedy", "War")


def rows_of(count: int = 30) -> list[dict[str, Any]]:
    """Return rows with an id, a plot that depends on the row, one or two genres, and a year."""
    return [
        {
            "id": f"m{n}",
            "plot": f'Row {n}, with a comma and a "quote".\nIt goes on.',
            "genres": "|".join({GENRES[n % 3], GENRES[n % 2]}),
            "year": 1950 + n,
        }
        for n in range(count)
    ]


def saved(folder: Path, rows: list[dict[str, Any]], name: str = "movies.csv") -> Path:
    """Write rows as the format that a file's name asks for."""
    path = folder / name
    frame = pd.DataFrame(rows)
    if name.endswith((".csv", ".csv.gz")):
        frame.to_csv(path, index=False)
    elif name.endswith((".tsv", ".tsv.gz")):
        frame.to_csv(path, index=False, sep="\t")
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def load(path: Path, *modalities: str, **options: Any) -> MovieTable:
    return Files(str(path), **options).load(modalities or ("text",), Store(path.parent / "store"))


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz", "m.tsv", "m.tsv.gz", "m.jsonl", "m.jsonl.gz", "m.json", "m.parquet"])
def test_every_format_gives_the_same_movies(tmp_path, name):
    table = load(saved(tmp_path, rows_of(), name))
    expected = {row["id"]: (row["plot"], set(row["genres"].split("|"))) for row in rows_of()}
    assert {m.id: (m.content["text"], set(m.genres)) for m in table.movies} == expected
    assert table.fingerprint == load(saved(tmp_path, rows_of(), "other.jsonl")).fingerprint


def test_columns_are_found_by_common_names_and_printed(tmp_path, caplog):
    rows = [{"tconst": f"t{n}", "Overview": f"plot {n}", "Genre": "A;B" if n % 2 else "B", "year": n} for n in range(20)]
    table = load(saved(tmp_path, rows), "text", "metadata")
    assert table.movies[0].id.startswith("t")
    assert table.vocabulary.names == ("B", "A")
    assert set(table.movies[0].content["metadata"]) == {"year"}
    assert "id from tconst; text from Overview; metadata from year; labels from Genre (separated by ;)" in caplog.text


def test_columns_can_be_named(tmp_path):
    rows = [{"key": n, "a": f"a{n}", "b": f"b{n}", "kind": GENRES[n % 3], "x": n % 7, "y": n % 5} for n in range(30)]
    columns = {"id": "key", "text": ["a", "b"], "labels": "kind", "metadata": ["x"]}
    table = load(saved(tmp_path, rows), "text", "metadata", columns=columns)
    movie = next(m for m in table.movies if m.id == "4")
    assert movie.content == {"text": "a4\nb4", "metadata": {"x": "4"}}


def test_a_missing_column_is_named_with_near_ones(tmp_path):
    path = saved(tmp_path, rows_of())
    with pytest.raises(UserError, match=r"data.columns.text names plott, which is no column of the table: did you mean plot"):
        load(path, columns={"text": "plott"})
    with pytest.raises(UserError, match=r"data.columns.txt is no role of a column: did you mean text"):
        load(path, columns={"txt": "plot"})
    with pytest.raises(IncompatibleChoices, match=r"movies.csv has no column for image .*, only id, plot, genres, year: name it"):
        load(path, "image")
    assert Files.offers({"root": str(path)}) == ("text", "metadata")


def test_labels_are_a_list_a_text_or_columns(tmp_path):
    names = [list(dict.fromkeys((GENRES[n % 3], GENRES[n % 2]))) for n in range(30)]
    as_list = [{"id": n, "text": f"x {n}", "labels": names[n]} for n in range(30)]
    as_python = [{**row, "labels": str(row["labels"])} for row in as_list]
    as_objects = [{**row, "labels": [{"id": 1, "name": name} for name in row["labels"]]} for row in as_list]
    as_flags = [{"id": n, "text": f"x {n}", **{g: int(g in names[n]) for g in GENRES}} for n in range(30)]
    first = load(saved(tmp_path, as_list, "a.jsonl"))
    assert set(first.vocabulary.names) == set(GENRES)
    for name, rows, columns in (
        ("b.csv", as_python, {}),
        ("c.jsonl", as_objects, {}),
        ("d.csv", as_flags, {"labels": [*GENRES]}),
    ):
        assert load(saved(tmp_path, rows, name), columns=columns).fingerprint == first.fingerprint


def test_a_label_column_that_is_no_flag_is_named(tmp_path):
    rows = [{"text": f"x {n}", "Drama": n % 2, "War": "perhaps" if n == 3 else 1 - n % 2} for n in range(20)]
    table = load(saved(tmp_path, rows), columns={"labels": ["Drama", "War"]})
    (problem,) = [p for p in table.audit.problems if p.kind == "broken_row"]
    assert (problem.id, problem.file, problem.action) == ("4", "movies.csv:5", "removed")
    assert problem.detail == "column War holds 'perhaps', expected 1 where the label is right and 0 where it is not"


def test_a_table_without_labels_names_the_columns_that_may_hold_them(tmp_path):
    rows = [{"text": f"x {n}", "Drama": n % 2, "War": n % 3 // 2} for n in range(20)]
    with pytest.raises(UserError, match=r"type data.columns.labels=\[Drama,War\]"):
        load(saved(tmp_path, rows))


def test_two_separators_ask_for_one(tmp_path):
    rows = [{"text": f"x {n}", "genres": "Drama|War" if n else "Action, Drama"} for n in range(20)]
    path = saved(tmp_path, rows)
    with pytest.raises(UserError, match=r"separated by `\|` \(Drama\|War\) or by `,` \(Action, Drama\): choose one"):
        load(path)
    assert "Action, Drama" in load(path, separator="|", split="0.8/0.1/0.1").vocabulary.names


def test_a_column_of_titles_is_no_column_of_labels(tmp_path):
    rows = [{"text": f"x {n}", "name": f"title {n}"} for n in range(30)]
    with pytest.raises(UserError, match="column name has 30 different labels in 30 records, most of them once"):
        load(saved(tmp_path, rows), columns={"labels": "name"})


def test_a_column_of_splits_decides(tmp_path):
    words = ["train", "Training", "dev", "validation", "TEST", ""]
    rows = [{**row, "split": words[n % 6]} for n, row in enumerate(rows_of(36))]
    table = load(saved(tmp_path, rows))
    assert {split: len(ids) for split, ids in table.ids.items()} == {"train": 12, "val": 12, "test": 6}
    assert [p.file for p in table.audit.problems if p.kind == "broken_row"] == [
        f"movies.csv:{2 * n + 2}" for n in range(5, 36, 6)
    ]
    rows[7]["split"] = "holdout"
    with pytest.raises(UserError, match=r"movies.csv:16 has split=holdout, expected train, val"):
        load(saved(tmp_path, rows))
    with pytest.raises(UserError, match="column split has no row of val"):
        load(saved(tmp_path, [{**row, "split": "train" if n % 2 else "test"} for n, row in enumerate(rows)]))


def test_shares_must_add_up(tmp_path):
    path = saved(tmp_path, rows_of())
    for wrong in ("0.7/0.1/0.3", "0.5/0.5", "1/0/0", "a/b/c"):
        with pytest.raises(UserError, match=f"data.split={wrong} is no split: give shares of train, val and test"):
            load(path, split=wrong)


def test_a_drawn_split_is_stratified_and_depends_on_the_seed():
    random = np.random.default_rng(0)
    shares = (0.7, 0.1, 0.2)
    labels = {n: tuple(name for c, name in enumerate("abcde") if random.random() < 0.02 * 2**c) for n in range(3000)}
    found = drawn(labels, {}, shares, 1)
    counts = {split: Counter(name for n, one in found.items() if one == split for name in labels[n]) for split in SPLITS}
    for name in "abcde":
        total = sum(counts[split][name] for split in SPLITS)
        for split, share in zip(SPLITS, shares, strict=True):
            assert abs(counts[split][name] - share * total) <= 2
    assert [abs(sum(one == s for one in found.values()) - share * 3000) <= 3 for s, share in zip(SPLITS, shares, strict=True)]
    assert drawn(labels, {}, shares, 1) == found
    assert drawn(labels, {}, shares, 2) != found


def test_every_split_has_the_rows_of_the_file(tmp_path):
    """So a stored column serves every split. Within a split, movies keep the order of the file."""
    rows = [{**row, "split": ("test", "train", "val")[n % 3]} for n, row in enumerate(rows_of(60))]
    path = saved(tmp_path, rows)
    tables = [load(path), *(load(path, split="0.5/0.2/0.3", split_seed=seed) for seed in (1, 2))]
    assert [[movie.id for movie in table.movies] for table in tables] == [[row["id"] for row in rows]] * 3
    assert tables[0].ids["train"] == [row["id"] for row in rows if row["split"] == "train"]
    assert tables[1].ids != tables[2].ids
    assert len({table.fingerprint["movies"] for table in tables}) == 3


def test_the_fingerprint_depends_on_the_order_within_splits_alone(tmp_path):
    rows = [{**row, "split": ("test", "train", "val")[n % 3]} for n, row in enumerate(rows_of(60))]
    by_split = sorted(rows, key=lambda row: SPLITS.index(row["split"]))
    mixed, sorted_, turned = (load(saved(tmp_path, given, f"{n}.csv")) for n, given in enumerate((rows, by_split, rows[::-1])))
    assert mixed.fingerprint == sorted_.fingerprint
    assert mixed.fingerprint != turned.fingerprint


def test_a_group_stays_in_one_split(tmp_path):
    rows = [{**row, "series": f"s{n // 3}"} for n, row in enumerate(rows_of(90))]
    table = load(saved(tmp_path, rows), columns={"group": "series"})
    split_of = {id: split for split, ids in table.ids.items() for id in ids}
    assert all(len({split_of[f"m{3 * g + i}"] for i in range(3)}) == 1 for g in range(30))
    assert len(table.ids["val"]) in (6, 9, 12)


def test_rows_with_a_fault_are_in_the_audit(tmp_path):
    path = saved(tmp_path, rows_of())
    lines = path.read_text().splitlines()
    text = "\n".join([*lines, "x,too,many,cells,here", "m3,again,Drama,1", ",no id,Drama,1"]) + "\n"
    path.write_text(text)
    table = load(path)
    found = [(p.file, p.kind, p.action) for p in table.audit.problems if p.action == "removed"]
    assert found == [
        ("movies.csv:62", "broken_row", "removed"),
        ("movies.csv:63", "duplicate_id", "removed"),
        ("movies.csv:64", "broken_row", "removed"),
    ]
    with pytest.raises(UserError, match=r"data.strict=true accepts no problem"):
        load(path, strict=True).raise_if_strict()


def test_media_are_found_beside_the_table(tmp_path):
    (tmp_path / "posters").mkdir()
    for n in range(30):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "posters" / f"{n}.png")
    rows = [{**row, "poster": f"posters\\{n}.PNG" if n % 2 else f"posters/{n}.png"} for n, row in enumerate(rows_of())]
    rows[4]["poster"], rows[5]["poster"], rows[6]["poster"] = "", "posters/none.png", "https://example.org/6.png"
    outside = tmp_path.parent / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    rows[7]["poster"] = "../outside.png"
    table = load(saved(tmp_path, rows), "text", "image")
    poster = {m.id: m.content.get("image") for m in table.movies}
    assert poster["m3"] == tmp_path / "posters" / "3.png"
    assert {id for id, path in poster.items() if path is None} == {"m4", "m5", "m6", "m7"}
    details = {p.id: p.detail for p in table.audit.problems if p.kind == "missing_image"}
    assert details["m4"] == "column poster is empty"
    assert details["m5"].startswith("no such file: posters/none.png")
    assert details["m6"] == "https://example.org/6.png is an address: download the file, and write its path"
    assert details["m7"] == "../outside.png points outside the data set's folder, so it is not read"


def test_a_folder_of_files_is_a_table(tmp_path):
    for n in range(30):
        (tmp_path / f"m{n}.txt").write_text(f"Plot {n}.")
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"m{n}.jpg")
    (tmp_path / "m3.txt").unlink()
    (tmp_path / "m3.json").write_text(json.dumps({"plot": "From JSON.", "year": 1999}))
    pd.DataFrame([{"id": f"m{n}", "genres": GENRES[n % 3]} for n in range(30)]).to_csv(tmp_path / "labels.csv", index=False)
    table = load(tmp_path, "text", "image", columns={"text": ["text", "plot"]})
    movies = {m.id: m for m in table.movies}
    assert len(movies) == 30
    assert (movies["m4"].content["text"], movies["m3"].content["text"]) == ("Plot 4.", "From JSON.")
    assert movies["m4"].content["image"] == tmp_path / "m4.jpg"
    assert movies["m4"].genres == ("Comedy",)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            "id,plot,genres\n1,caf\xe9,Drama\n".encode("cp1252"),
            r"movies.csv:2 is not UTF-8 but probably WINDOWS-1252: type `iconv",
        ),
        ("id,plot\n1,x\n".encode("utf-16"), r"movies.csv:1 is not UTF-8 but probably UTF-16: type `iconv -f UTF-16 -t UTF-8"),
        (b"PK\x03\x04rest", r"movies.csv is no CSV file \(it is a spreadsheet or a zip archive\): give a .csv"),
        (b"", "movies.csv is empty: expected a header"),
        (b"id,plot,genres\n", "movies.csv has no row that can be read"),
        (b"id,plot,plot\n1,x,y\n", "movies.csv:1 has two columns named plot: give each its own name"),
        (b'id,plot\n1,x\n2,"never closed\n3,x\n', r'movies.csv:3 opens a quote \("\) that is never closed'),
        (b'id,plot\n1,"closed" and more\n', r"movies.csv:2 has text behind a closing quote"),
        (b"id,plot\n1,2,3\n", "movies.csv has no row that can be read: line 2, it has 3 cells, the header 2: quote cells"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_fault(tmp_path, data, sentence):
    (tmp_path / "movies.csv").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "movies.csv")


def test_a_mark_semicolons_and_a_first_column_without_name_are_accepted(tmp_path):
    path = tmp_path / "movies.csv"
    path.write_bytes("\ufeff;plot;genres\n".encode() + "".join(f"r{n};a, b {n};Drama\n" for n in range(20)).encode())
    table = load(path)
    assert {m.id for m in table.movies} == {f"r{n}" for n in range(20)}
    assert table.movies[0].content["text"].startswith("a, b")


def test_a_cell_of_any_size_is_read(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(f"id,plot\n1,{'x' * 200_000}\n")
    assert len(read_records(path).columns["plot"][0]) == 200_000


def test_a_column_that_holds_the_labels_is_refused(tmp_path):
    rows = [{**row, "kind": row["genres"].replace("|", " / ")} for row in rows_of(60)]
    path = saved(tmp_path, rows)
    with pytest.raises(UserError, match=r"column kind holds the movies' genres, .* set data.leave_out=\[kind\]"):
        load(path, "text", "metadata")
    load(path, "text", "metadata", leave_out=["kind"])
    with pytest.raises(UserError, match="column kind names the labels in 100 % of train, so it is no input"):
        load(path, columns={"text": "kind"})


def test_a_limit_that_tells_a_label_is_a_warning(tmp_path):
    rows = [
        {"text": f"x {n}", "labels": "Short" if n % 4 == 0 else "Drama", "length": (n % 40) + 100 * (n % 4 > 0)}
        for n in range(200)
    ]
    table = load(saved(tmp_path, rows), "text", "metadata")
    (warning,) = [w for w in table.warnings if w.startswith("near_labels")]
    assert "column length tells" in warning and "Type data.leave_out=[length] to predict without" in warning
