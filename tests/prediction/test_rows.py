"""The movie that is typed on the command line, and the state of a row."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.rows import row_state, typed_row

ALL, COLUMNS = ("text", "image", "metadata"), ("year", "Release Date")


@pytest.fixture
def poster(tmp_path) -> Path:
    (tmp_path / "poster.jpg").write_bytes(b"any")
    return tmp_path / "poster.jpg"


def test_every_part_of_a_movie_is_read(poster):
    typed = {"text": " \"A boy\", a=b,\n'c' ", "image": str(poster), "metadata.year": "1994", "metadata.Release Date": "May 1"}
    row = typed_row(typed, ALL, COLUMNS)
    assert row.content == {
        "text": " \"A boy\", a=b,\n'c' ",
        "image": poster,
        "metadata": {"year": "1994", "Release Date": "May 1"},
    }
    assert row.problem is None


def test_an_empty_value_is_absent(poster):
    assert typed_row({"text": " ", "image": str(poster)}, ALL, COLUMNS).content == {"image": poster}


def test_home_is_expanded_in_paths_alone(poster, monkeypatch):
    monkeypatch.setenv("HOME", str(poster.parent))
    assert typed_row({"text": "~5 minutes", "image": "~/poster.jpg"}, ALL, ()).content == {"text": "~5 minutes", "image": poster}


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({}, r"no modality of the movie is given: type movie\.text=TEXT or movie\.image=FILE or movie\.metadata\.KEY=VALUE"),
        ({"text": ""}, "no modality of the movie is given"),
        ({"txt": "a"}, r"movie\.txt is no part of a movie: did you mean movie\.text\?"),
        ({"video": "x.mp4"}, r"movie\.video is not read, as the run reads text and image and metadata: leave it out"),
        ({"metadata.yaer": "1"}, r"movie\.metadata\.yaer is no column of metadata .*: did you mean movie\.metadata\.year"),
        ({"zzz": "1"}, r"movie\.zzz is no part of a movie: choices are movie\.text, movie\.image, movie\.metadata\.year"),
    ],
)
def test_a_wrong_key_names_the_near_ones(typed, sentence):
    with pytest.raises(UserError, match=sentence):
        typed_row(typed, ALL, COLUMNS)


def test_a_missing_file_names_the_near_one(poster):
    with pytest.raises(UserError, match=r"movie\.image=.*postr\.jpg is not there: did you mean .*poster\.jpg\?"):
        typed_row({"image": str(poster.with_name("postr.jpg"))}, ALL, ())
    with pytest.raises(UserError, match="is no file: give the path of a file"):
        typed_row({"image": str(poster.parent)}, ALL, ())
    with pytest.raises(UserError, match="cannot be read"):
        typed_row({"image": "x" * 5000}, ALL, ())


def test_the_state_of_a_row_changes_with_every_content(poster):
    def state(**content) -> list:
        return row_state(InputRow("a", content, None, "t.csv:2"))

    first = state(text="a", image=poster, metadata={"year": 1.0}, audio=np.zeros(2))
    assert state(text="a", image=poster, metadata={"year": 1.0}, audio=np.zeros(2)) == first
    for other in ({"text": "b"}, {"metadata": {"year": 2.0}}, {"audio": np.ones(2)}, {"image": poster.with_name("none.jpg")}):
        assert state(**{"text": "a", "image": poster, "metadata": {"year": 1.0}, "audio": np.zeros(2)} | other) != first
    os.utime(poster, ns=(1, 1))
    assert state(text="a", image=poster, metadata={"year": 1.0}, audio=np.zeros(2)) != first
