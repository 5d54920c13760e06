"""Decode files, replace lone surrogates, tidy genres, and drop invisible plots."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.moviescope import Moviescope
from gmu_lightning.data.readers.metadata_table import read_table
from gmu_lightning.data.readers.strings import as_utf8, parsed, shows, spelling, spelt_alike, tidy
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.files import digest, sound, write_json, write_rows
from gmu_lightning.movie import UserError

TITLE = "\u0130stanbul \u014ckami no ko"
TEXT = "Half an emoji \ud83d here"
SOUND = "Half an emoji \ufffd here"
Rows = dict[str, list[dict]]


def rows(**train: object) -> Rows:
    """Return a data set with four movies of train, the second with these changes, and two each of val and test."""
    found = {
        split: [
            {"id": f"{split}{n}", "text": f"Plot {n} of {split}.", "label": ["Drama", "War"][: 1 + n % 2]} for n in range(count)
        ]
        for split, count in (("train", 4), ("dev", 2), ("test", 2))
    }
    found["train"][1].update(train)
    return found


def jsonl(folder: Path, movies: Rows, encoding: str = "utf-8", mark: bytes = b"") -> MMIMDb:
    folder.mkdir()
    for split, lines in movies.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_bytes(mark + text.encode(encoding, "surrogatepass"))
    return MMIMDb(str(folder))


def raw(folder: Path, movies: Rows, encoding: str = "utf-8", mark: bytes = b"") -> MMIMDb:
    (folder / "dataset").mkdir(parents=True)
    for line in (line for lines in movies.values() for line in lines):
        record = json.dumps({"plot": ["Short.", line["text"]], "genres": line["label"]}, ensure_ascii=False)
        (folder / "dataset" / f"{line['id']}.json").write_bytes(mark + record.encode(encoding, "surrogatepass"))
    ids = json.dumps({split: [line["id"] for line in lines] for split, lines in movies.items()})
    (folder / "split.json").write_bytes(mark + ids.encode(encoding))
    return MMIMDb(str(folder))


def moviescope(folder: Path, movies: Rows, encoding: str = "utf-8", mark: bytes = b"") -> Moviescope:
    jsonl(folder, {s: [{**line, "synopsis": line["text"]} for line in lines] for s, lines in movies.items()}, encoding, mark)
    return Moviescope(str(folder))


every_layout = pytest.mark.parametrize("write", [jsonl, raw, moviescope])
Write = Callable[..., MMIMDb | Moviescope]


def load(data: MMIMDb | Moviescope, tmp_path: Path) -> MovieTable:
    return data.load(("text",), Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
@every_layout
def test_files_are_decoded_whole_by_their_mark(tmp_path, write, encoding, mark):
    data = load(write(tmp_path / "d", rows(text=TITLE), encoding, mark), tmp_path)
    assert [movie.id for movie in data.movies] == [f"train{n}" for n in range(4)] + ["dev0", "dev1", "test0", "test1"]
    assert data.movies[1].content["text"] == TITLE
    assert {p.kind for p in data.audit.problems} <= {"missing_image"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_are_decoded_by_their_mark(tmp_path, encoding):
    (tmp_path / "metadata.csv").write_text(f"id,word\n1,{TITLE}\n", encoding=encoding)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"id": "1", "word": TITLE}, ensure_ascii=False) + "\n", encoding=encoding)
    assert read_table(tmp_path / "metadata.csv")["1"]["word"] == TITLE
    assert read_table(tmp_path / "metadata.jsonl")["1"]["word"] == TITLE


def test_a_cut_utf_16_file_loses_only_its_last_line(tmp_path):
    jsonl(tmp_path / "d", rows(), "utf-16-le", codecs.BOM_UTF16_LE)
    path = tmp_path / "d" / "train.jsonl"
    path.write_bytes(path.read_bytes()[:-21])
    data = load(MMIMDb(str(tmp_path / "d")), tmp_path)
    assert [(p.file, p.kind) for p in data.audit.problems if p.kind == "broken_json"] == [("train.jsonl:4", "broken_json")]


def test_a_file_that_cannot_be_decoded_is_refused_by_name(tmp_path):
    jsonl(tmp_path / "d", rows())
    (tmp_path / "d" / "train.jsonl").write_bytes(codecs.BOM_UTF32_LE + b"\xff\xff\xff\xff" * 4)
    with pytest.raises(UserError, match=r"train\.jsonl cannot be decoded \(.*\): save it as UTF-8"):
        load(MMIMDb(str(tmp_path / "d")), tmp_path)


def test_a_line_outside_utf_8_is_not_guessed(tmp_path):
    jsonl(tmp_path / "d", rows())
    path = tmp_path / "d" / "train.jsonl"
    first, second, *more = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, codecs.BOM_UTF16_LE + second.decode().encode("utf-16-le").replace(b"\n", b" "), *more]))
    data = load(MMIMDb(str(tmp_path / "d")), tmp_path)
    assert [movie.id for movie in data.movies if movie.id.startswith("train")] == ["train0", "train2", "train3"]
    assert data.audit.counts["broken_json"] == 1


@pytest.mark.parametrize("escaped", [True, False])
@every_layout
def test_a_plot_with_a_lone_surrogate_is_kept_and_named(tmp_path, write, escaped):
    data = write(tmp_path / "d", rows(text=TEXT))
    if escaped:
        for path in (tmp_path / "d").rglob("*.json*"):
            path.write_bytes(path.read_bytes().replace(b"\xed\xa0\xbd", b"\\ud83d"))
    data = load(data, tmp_path)
    assert data.movies[1].content["text"] == SOUND
    (problem,) = (p for p in data.audit.problems if p.kind == "replaced_text")
    assert (problem.id, problem.split, problem.action) == ("train1", "train", "kept")
    assert "text" in problem.detail
    assert problem.file.startswith(("train.jsonl", "dataset/train1.json"))


def test_a_pair_of_surrogates_is_one_character():
    assert sound("\ud83d\ude00") == "\U0001f600"
    assert sound("a\ud83d") == "a\ufffd"
    assert sound("\ude00a") == "\ufffda"


@every_layout
def test_genres_with_lone_surrogates_are_kept(tmp_path, write):
    data = load(write(tmp_path / "d", rows(label=["Dra\udcffma"])), tmp_path)
    assert "Dra\ufffdma" in data.vocabulary.names
    assert [p.detail for p in data.audit.problems if p.kind == "replaced_text"] == [
        "lone surrogates in its genres are replaced by U+FFFD"
    ]


@pytest.mark.parametrize("write", [jsonl, moviescope])
def test_ids_that_become_one_are_one_movie(tmp_path, write):
    movies = rows(id="a\ud800")
    movies["train"][2]["id"] = "a\ud801"
    data = load(write(tmp_path / "d", movies), tmp_path)
    assert [movie.id for movie in data.movies][:3] == ["train0", "a\ufffd", "train3"]
    assert data.audit.counts["duplicate_id"] == 1
    assert data.audit.counts["replaced_text"] == 1


def test_files_and_digests_hold_lone_surrogates(tmp_path):
    write_json(tmp_path / "a.json", {"a\udcff": "b\ud83d"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a\udcff": "b\ud83d"}
    write_rows(tmp_path / "a.csv", [{"name": "b\udcff"}])
    assert "b\\udcff" in (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert digest("a\udcff") != digest("a\udcfe")


@pytest.mark.parametrize(
    "plot", ["\u200b\u200b", "\ufeff", "\u2060\u00ad", "\x00", "\x1b\u200e ", "\u0301", "\u3164", "\u2800\u00a0"]
)
@every_layout
def test_an_invisible_plot_is_absent(tmp_path, write, plot):
    movies = rows()
    movies["train"][1]["text"] = plot
    data = write(tmp_path / "d", movies)
    if write is raw:
        (tmp_path / "d" / "dataset" / "train1.json").write_text(json.dumps({"plot": [plot], "genres": ["War"]}))
    data = load(data, tmp_path)
    assert "text" not in data.movies[1].content
    assert [(p.id, p.action) for p in data.audit.problems if p.kind == "missing_plot"] == [("train1", "kept_absent")]


def test_a_visible_plot_precedes_a_longer_invisible_one(tmp_path):
    raw(tmp_path / "d", rows())
    (tmp_path / "d" / "dataset" / "train1.json").write_text(json.dumps({"plot": ["\u200b" * 99, "A plot."], "genres": ["War"]}))
    assert load(MMIMDb(str(tmp_path / "d")), tmp_path).movies[1].content["text"] == "A plot."


@pytest.mark.parametrize("text", ["a", "7", "!", "\U0001f600", "\u0939\u093f", "\u0e20", "\u200bx", "\U0001fae9"])
def test_letters_figures_and_signs_are_visible(text):
    assert shows(text)


@every_layout
def test_genres_are_tidy(tmp_path, write):
    data = load(write(tmp_path / "d", rows(label=[" War\u00a0", "\ufeffDrama", "Cafe\u0301", " ", "War"])), tmp_path)
    assert data.movies[1].genres == ("War", "Drama", "Caf\u00e9")
    assert data.warnings == ()


def test_a_genre_keeps_its_last_combining_mark():
    assert tidy("\u0939\u093f\u0928\u094d\u0926\u0940 ") == "\u0939\u093f\u0928\u094d\u0926\u0940"


@pytest.mark.parametrize("other", ["drama", "DRAMA", "Dra ma", "dra-ma", "Dra\u2013ma", "Dra\u00a0ma", "Dra\u00adma", "Dra_ma"])
@every_layout
def test_genres_that_differ_by_case_are_a_warning(tmp_path, write, other):
    data = load(write(tmp_path / "d", rows(label=[other])), tmp_path)
    (warning,) = data.warnings
    assert warning.startswith("genre_spelling: ")
    assert repr(other) in warning
    assert "'Drama'" in warning


def test_different_genres_are_no_warning():
    assert spelt_alike(["Drama", "Dramas", "War", "Music", "Musical", "Sci-Fi", "Film-Noir"]) is None
    assert spelling("Sci-Fi") == spelling("sci fi") == spelling("SciFi")
    many = spelt_alike([name for n in "abcde" for name in (n, n.upper())])
    assert many is not None and "(and 2 more)" in many


def test_json_is_parsed_as_utf_8_alone():
    assert parsed(codecs.BOM_UTF8 + b'{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="utf-8"):
        parsed('{"a": 1}'.encode("utf-16"))
    assert as_utf8(b"\0\0\0\0abcd") == b"\0\0\0\0abcd"
