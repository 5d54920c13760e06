"""Read the jsonl layout of MM-IMDb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.mmimdb.layouts import JsonlLayout
from gmu_lightning.movie import SPLITS, Movie, UserError

ROW = {"id": "0000001", "text": "A plot.", "img": "dataset/0000001.jpeg", "label": ["Drama", "War"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dataset").mkdir()
    for n in range(1, 4):
        (tmp_path / "dataset" / f"000000{n}.jpeg").write_bytes(b"jpeg")
    write(tmp_path, "train", ROW)
    write(tmp_path, "dev", {**ROW, "id": 2})
    write(tmp_path, "test", {**ROW, "id": "0000003", "img": "dataset/0000003.jpeg"})
    return tmp_path


def write(root: Path, name: str, *rows: dict | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def read(root: Path, split: str = "train") -> tuple[list[Movie], Audit]:
    audit = Audit()
    return list(JsonlLayout(root).read(split, audit)), audit


def test_a_row_is_a_movie(root):
    movies, audit = read(root)
    assert movies == [
        Movie("0000001", {"text": "A plot.", "image": root / "dataset" / "0000001.jpeg"}, ("Drama", "War")),
    ]
    assert audit.problems == []


def test_dev_is_val_and_numbers_are_ids_too(root):
    assert [movie.id for movie in read(root, "val")[0]] == ["2"]
    (root / "dev.jsonl").rename(root / "val.jsonl")
    assert [movie.id for movie in read(root, "val")[0]] == ["2"]


def test_image_is_another_spelling_of_img(root):
    write(root, "train", {"id": "1", "text": "A plot.", "image": "dataset/0000002.jpeg", "label": ["War"]})
    assert read(root)[0][0].content["image"] == root / "dataset" / "0000002.jpeg"


@pytest.mark.parametrize("img", [None, "", 3, "dataset/none.jpeg", "x" * 5000, "nul\0"])
def test_a_row_without_a_poster_is_kept_without_it(root, img):
    write(root, "train", {**ROW, "img": img})
    movies, audit = read(root)
    assert set(movies[0].content) == {"text"}
    assert [(p.id, p.file, p.kind, p.action) for p in audit.problems] == [
        ("0000001", "train.jsonl:1", "missing_image", "kept_absent")
    ]


@pytest.mark.parametrize("climb", ["../secret.jpeg", "dataset/../../secret.jpeg", "ABSOLUTE"])
def test_a_poster_outside_the_folder_is_not_read(root, climb):
    secret = root.parent / "secret.jpeg"
    secret.write_bytes(b"jpeg")
    write(root, "train", {**ROW, "img": str(secret) if climb == "ABSOLUTE" else climb})
    movies, audit = read(root)
    assert "image" not in movies[0].content
    assert "points outside" in audit.problems[0].detail


@pytest.mark.parametrize("text", [None, "", "  ", 5, [], [" ", None]])
def test_a_row_without_a_text_is_kept_without_it(root, text):
    write(root, "train", {**ROW, "text": text})
    movies, audit = read(root)
    assert set(movies[0].content) == {"image"}
    assert audit.counts == {"missing_plot": 1}


@pytest.mark.parametrize(
    "broken", ['{"id": "9", "text": "cut', "[]", '{"text": "no id"}', '{"id": true}', '{"id": "9", "label": "War"}']
)
def test_a_broken_line_is_removed_and_named_by_its_number(root, broken):
    write(root, "train", ROW, "", broken, {**ROW, "id": "8"})
    movies, audit = read(root)
    assert [movie.id for movie in movies] == ["0000001", "8"]
    assert [(p.file, p.kind, p.action) for p in audit.problems] == [("train.jsonl:3", "broken_json", "removed")]


def test_the_first_of_a_repeated_id_is_kept(root):
    write(root, "test", ROW, {**ROW, "id": "3"}, {**ROW, "id": 3})
    layout, audit = JsonlLayout(root), Audit()
    assert {split: [movie.id for movie in layout.read(split, audit)] for split in SPLITS}["test"] == ["3"]
    assert [(p.file, p.kind, p.action) for p in audit.problems] == [
        ("test.jsonl:1", "duplicate_id", "removed"),
        ("test.jsonl:3", "duplicate_id", "removed"),
    ]


def test_a_row_without_labels_has_no_genre(root):
    write(root, "train", {key: value for key, value in ROW.items() if key != "label"})
    assert read(root)[0][0].genres == ()


def test_a_missing_split_is_named(root):
    (root / "dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no dev.jsonl or val.jsonl"):
        JsonlLayout(root)
