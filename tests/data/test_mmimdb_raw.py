"""Read the raw layout of MM-IMDb; the audit explains each missing id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.mmimdb.layouts import RawLayout
from gmu_lightning.movie import SPLITS, Movie, UserError


def read(root: Path, plot: str = "longest") -> tuple[dict[str, Movie], Audit]:
    audit = Audit()
    layout = RawLayout(root, plot)
    return {movie.id: movie for split in SPLITS for movie in layout.read(split, audit)}, audit


def rewrite(root: Path, movie: str, **changes: object) -> None:
    path = root / "dataset" / f"{movie}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def problems(audit: Audit) -> list[tuple[str, str, str, str]]:
    return [(p.id, p.split, p.kind, p.action) for p in audit.problems]


def test_a_sound_data_set_has_no_problem(raw):
    movies, audit = read(raw)
    assert movies["0000001"] == Movie(
        "0000001", {"text": "The long plot of 0000001.", "image": raw / "dataset" / "0000001.jpeg"}, ("Drama", "War")
    )
    assert len(movies) == 6
    assert audit.problems == []


def test_dev_is_val_in_the_order_of_the_split_file(raw):
    (raw / "split.json").write_text(json.dumps({"train": ["0000003", "0000001"], "dev": ["0000004"], "test": ["0000006"]}))
    layout = RawLayout(raw)
    assert [movie.id for movie in layout.read("train", Audit())] == ["0000003", "0000001"]
    assert [movie.id for movie in layout.read("val", Audit())] == ["0000004"]


@pytest.mark.parametrize(
    ("plot", "text"),
    [("longest", "the longest one"), ("first", "short"), ("concat", "short a b c d e the longest one the longest two")],
)
def test_plot_chooses_the_text(raw, plot, text):
    rewrite(raw, "0000001", plot=["", " short\n", "a b c d e", "the longest one", "the longest two"])
    assert read(raw, plot)[0]["0000001"].content["text"] == text


def test_a_plot_may_be_a_string(raw):
    rewrite(raw, "0000001", plot="Just one.")
    assert read(raw)[0]["0000001"].content["text"] == "Just one."


@pytest.mark.parametrize("plot", [None, [], "", ["", " \n"], {"en": "text"}, 7])
def test_an_outline_does_not_replace_a_missing_plot(raw, plot):
    rewrite(raw, "0000001", plot=plot, **{"plot outline": "An outline."})
    movies, audit = read(raw)
    assert set(movies["0000001"].content) == {"image"}
    assert problems(audit) == [("0000001", "train", "missing_plot", "kept_absent")]


def test_a_movie_without_a_poster_is_kept_without_it(raw):
    (raw / "dataset" / "0000004.jpeg").unlink()
    movies, audit = read(raw)
    assert set(movies["0000004"].content) == {"text"}
    assert problems(audit) == [("0000004", "val", "missing_image", "kept_absent")]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_posters_of_other_suffixes_are_found(raw, suffix):
    poster = raw / "dataset" / "0000004.jpeg"
    poster.rename(poster.with_suffix(suffix))
    assert read(raw)[0]["0000004"].content["image"] == poster.with_suffix(suffix)


@pytest.mark.parametrize(
    "broken",
    [b'{"plot": ["cut', b"", b"[1, 2]", b"\xff\xfe\x00\xd8", b'{"genres": "Drama"}', b'{"genres": [1]}', b"[" * 100_000, None],
)
def test_a_broken_or_absent_record_is_removed_and_named(raw, broken):
    path = raw / "dataset" / "0000005.json"
    path.unlink() if broken is None else path.write_bytes(broken)
    movies, audit = read(raw)
    assert "0000005" not in movies
    assert len(movies) == 5
    assert problems(audit) == [("0000005", "test", "broken_json", "removed")]
    assert audit.problems[0].file == "dataset/0000005.json"
    assert audit.problems[0].detail


def test_a_record_without_genres_is_read_as_having_none(raw):
    path = raw / "dataset" / "0000005.json"
    path.write_text('{"plot": ["A plot."]}')
    movies, audit = read(raw)
    assert movies["0000005"].genres == ()
    assert audit.problems == []


def test_a_genre_named_twice_counts_once(raw):
    rewrite(raw, "0000001", genres=["War", "Drama", "War"])
    assert read(raw)[0]["0000001"].genres == ("War", "Drama")


def test_the_first_split_keeps_a_repeated_id(tmp_path, write_raw):
    ids = {"test": ["0000001", "0000003"], "dev": ["0000002", "0000001"], "train": ["0000001", "0000004", "0000001"]}
    root = write_raw(tmp_path / "twice", ids)
    layout, audit = RawLayout(root), Audit()
    kept = {split: [movie.id for movie in layout.read(split, audit)] for split in SPLITS}
    assert kept == {"train": ["0000001", "0000004"], "val": ["0000002"], "test": ["0000003"]}
    assert problems(audit) == [("0000001", split, "duplicate_id", "removed") for split in SPLITS]
    assert "already in train, place 1" in audit.problems[0].detail


def test_splits_can_be_read_in_any_order(tmp_path, write_raw):
    root = write_raw(tmp_path / "twice", {"train": ["0000001"], "dev": ["0000002"], "test": ["0000002", "0000001", "0000003"]})
    assert [movie.id for movie in RawLayout(root).read("test", Audit())] == ["0000003"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "no list of ids named train, only list"),
        ('{"train": ["1"], "dev": ["2"], "tset": ["3"]}', "no list of ids named test, only train, dev, tset"),
        ('{"train": ["1"], "test": ["3"]}', "no list of ids named dev or val"),
        ('{"train": ["1"], "dev": [], "test": ["3"]}', "lists no movie in val: expected ids"),
        ('{"train": ["1", 5], "dev": ["2"], "test": ["3"]}', "lists 5 in train"),
        ('{"train": ["1"], "dev": ["2"], "test": ["../../etc/passwd"]}', "lists '../../etc/passwd' in test"),
    ],
)
def test_a_wrong_split_file_ends_in_one_sentence(raw, content, sentence):
    (raw / "split.json").write_text(content)
    with pytest.raises(UserError, match=r"split\.json") as error:
        RawLayout(raw)
    assert sentence in str(error.value)
