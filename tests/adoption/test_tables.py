"""Tables of predictions: columns are found by name, and each fault is one sentence with its first place."""

# ruff: noqa: E501  # a case is read in one line

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gmu_lightning.adoption.tables import PredictedTable
from gmu_lightning.movie import UserError
from tests.malformed import changed, odd_values

GENRES = ("Drama", "Sci-Fi", "War")
HEAD = "id,prob/Drama,prob/Sci-Fi,prob/War"


def read(tmp_path: Path, text: str, name: str = "p.csv", task: str = "multilabel", genres=GENRES) -> PredictedTable:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return PredictedTable.of(path, genres, task)


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "id,prob/Drama,prob/Sci-Fi,prob/War\n007,1,0.25,0\n"),
        ("p.csv", "tconst;war;sci fi;drama;title\n007;0;.25;1;Drama\n"),
        ("p.tsv", "Movie ID\tDrama\tSci-Fi\tWar\tgenres\n007\t1.0\t2.5e-1\t0\tWar\n"),
        ("p.jsonl", lines({"id": "007", "prob": {"drama": 1, "Sci-Fi": 0.25, "War": 0}})),
        ("p.json", '[{"id": "007", "Drama": true, "Sci-Fi": 0.25, "War": false}]'),
    ],
)
def test_probabilities_are_found(tmp_path, name, text):
    found = read(tmp_path, text, name)
    assert list(found.ids) == ["007"]
    assert found.probabilities.tolist() == [[1, 0.25, 0]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "id,labels\na,War|sci-fi\nb,\n"),
        ("p.csv", 'id,predicted,genres\na,"War, Sci-Fi",Drama\nb,,Drama\n'),
        ("p.csv", "id,genres\na,\"['Sci-Fi', 'War']\"\nb,[]\n"),
        ("p.jsonl", lines({"id": "a", "genres": ["War", "Sci-Fi", "War"]}, {"id": "b", "genres": []})),
    ],
)
def test_labels_are_found(tmp_path, name, text):
    assert read(tmp_path, text, name).probabilities.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_a_separator_inside_a_genre_divides_no_label(tmp_path):
    found = read(tmp_path, 'id,genre\na,"War, Politics;Drama"\n', genres=("Drama", "War, Politics"))
    assert found.probabilities.tolist() == [[1, 1]]


def test_parquet_keeps_lists_seeds_and_splits(tmp_path):
    pd.DataFrame({"id": [1, 2], "label": [["War"], []], "seed": [4, 5], "split": ["dev", None]}).to_parquet(
        tmp_path / "p.parquet"
    )
    found = PredictedTable.of(tmp_path / "p.parquet", GENRES, "multilabel")
    assert (found.ids, found.seeds, found.splits) == (["1", "2"], [4, 5], ["val", None])
    assert found.read == "ids from id, labels from label, seeds from seed, splits from split"


def test_a_class_column_is_one_label(tmp_path):
    found = read(tmp_path, "id,label\na,War\nb,Drama\n", task="multiclass")
    assert np.array_equal(found.probabilities, [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,prob/Drama\na,1\n", "p.csv has no column of ids, only name, prob/Drama: name the one with the movies' ids id"),
        ("id,labels\na,War\n,War\n,War\n", "p.csv has 2 rows without an id, the first in p.csv:3: add the ids"),
        ("id,prob/Drama,prob/War\na,1,0\n", "lacks 1 of 3 genres, the first Sci-Fi: give a column prob/Sci-Fi"),
        ("id,Drama,War\na,1,0\n", "lacks 1 of 3 genres, the first Sci-Fi"),
        (f"{HEAD},prob/Wars\na,1,0,0,0\n", "has 1 column of no genre of the data, the first prob/Wars: rename or remove them; did you mean War?"),
        ("id,Drama,drama,Sci-Fi,War\na,1,0,0,0\n", "has two columns for Drama, Drama and drama: remove one"),
        ("id,title\na,x\n", "has no predictions, only id, title: give a column prob/GENRE for each of the 3 genres"),
        (f"{HEAD}\na,1,,nan\nb,x,0,0\n", "has 3 cells without a number, the first in p.csv:2, column prob/Sci-Fi ('')"),
        (f"{HEAD}\na,1,0,0\nb,0,12.5,-1\n", "has 2 numbers outside 0 to 1, the first in p.csv:3, column prob/Sci-Fi ('12.5'): give probabilities; divide per cent by 100, and put logits through the sigmoid first"),
        ("id,labels\na,War\nb,Science Fiction|Wa\n", "has 2 labels that are no genre of the data, the first in p.csv:3 ('Science Fiction'): correct or delete them"),
        ("id,labels,seed\na,War,one\n", "p.csv:2 has seed=one: give a whole number from 0 on in every row"),
        ("id,labels,split\na,War,all\n", "p.csv:2 has split=all: name it train, val (or dev) or test, or remove the column"),
        ("id,labels\na,War,1\nb,War\n", "has 1 row that cannot be read, the first in line 2: it has 3 cells, the header 2"),
        ("id,labels\n", "has no row: expected a row for each movie of val and test"),
        ("", "is empty: expected a header"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError) as refused:
        read(tmp_path, text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,label\na,War\nb,\n", "has 1 row without exactly one label, the first in p.csv:3"),
        (f"{HEAD}\na,.5,.3,.2\nb,.9,.9,0\n", "has 1 row whose probabilities do not add up to 1, the first in p.csv:3 (1.8)"),
    ],
)
def test_a_fault_of_single_labels_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError) as refused:
        read(tmp_path, text, task="multiclass")
    assert sentence in str(refused.value)


def test_an_answer_that_is_absent_is_no_empty_list(tmp_path):
    with pytest.raises(UserError, match=r"p\.jsonl:2 has no genres: predict every movie; an empty list predicts no genre"):
        read(tmp_path, lines({"id": "a", "genres": []}, {"id": "b", "error": "time-out"}), "p.jsonl")
    with pytest.raises(UserError, match=r"p\.jsonl:1: .* expected a list of strings: give a list of genres"):
        read(tmp_path, lines({"id": "a", "genres": [1, 2]}), "p.jsonl")
    with pytest.raises(UserError, match=r"predictions=.*nowhere\.csv does not exist: give a \.csv"):
        PredictedTable.of(tmp_path / "nowhere.csv", GENRES, "multilabel")


def damaged() -> list[tuple[str, str, bytes]]:
    """Return (words, suffix, bytes) of damaged copies of a sound file in each format."""
    frame = pd.DataFrame({"id": list("abcd"), "seed": 1, **{f"prob/{genre}": [0.1, 0.9, 0.5, 0.0] for genre in GENRES}})
    file = io.BytesIO()
    frame.to_parquet(file)
    sound = {".parquet": file.getvalue(), ".csv": frame.to_csv(index=False).encode()}
    record = {"id": "a", "seed": 1, "split": "val", "genres": ["War"], "prob": {"Drama": 0.1}}
    found = [(words, suffix, data) for suffix, whole in sound.items() for words, data in changed(whole, suffix[1:])]
    return found + [(words, ".jsonl", data) for words, data in odd_values(record, "json")]


@pytest.mark.parametrize(("suffix", "data"), [pytest.param(*case[1:], id=case[0]) for case in damaged()])
def test_a_damaged_file_is_read_or_refused(tmp_path, suffix, data):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(data)
    with suppress(UserError):
        found = PredictedTable.of(path, GENRES, "multilabel").probabilities
        assert ((found >= 0) & (found <= 1)).all()
