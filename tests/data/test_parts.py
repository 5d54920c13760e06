"""Keep each row of a costly preparation in a file of its own."""

import os

import numpy as np
import pytest

from gmu_lightning.data.store import Store, content_digest, prepared
from gmu_lightning.movie import ArrayFile, BadContent


class Costly:
    """Counts stored contents; `bad` is unusable, and `crash` raises an error."""

    learns, costly, fingerprint = False, True, "costly"

    def __init__(self):
        self.stored = []

    def fit(self, contents):
        return self

    def state(self):
        return {}

    def restored(self, state):
        return self

    def store(self, content):
        self.stored.append(content)
        if content == "crash":
            raise RuntimeError("the process ends here")
        if content == "bad":
            raise BadContent("bad_array", "it is bad")
        return np.array([float(len(content))], dtype=np.float32)

    def batch(self, rows, training):
        return rows


def column(store, contents, preparation):
    digests = [content and content_digest(content) for content in contents]
    return prepared(store, "video", contents, digests, np.ones(len(contents), bool), preparation)


def test_rows_finished_before_a_crash_are_reused(tmp_path):
    with pytest.raises(RuntimeError):
        column(Store(tmp_path), ["a", "bb", "bad", "crash"], Costly())
    again = Costly()
    found = column(Store(tmp_path), ["a", "bb", "bad", "dddd"], again)
    assert again.stored == ["dddd"]
    assert [None if row is None else row.tolist() for row in map(found.row, range(4))] == [[1.0], [2.0], None, [4.0]]
    assert found.bad == ((2, "bad_array", "it is bad"),)


def test_errors_of_the_machine_are_tried_again(tmp_path):
    class Ill(Costly):
        def store(self, content):
            self.stored.append(content)
            raise BadContent("bad_array", "the decoder died", lasting=False)

    assert column(Store(tmp_path), ["a"], Ill()).bad == ((0, "bad_array", "the decoder died"),)
    assert column(Store(tmp_path), ["a", None], Costly()).row(0) == [1.0]


def test_more_movies_cost_only_the_new_contents(tmp_path):
    column(Store(tmp_path), ["a", "bb"], Costly())
    again = Costly()
    assert column(Store(tmp_path), ["bb", None, "ccc"], again).row(0) == [2.0]
    assert again.stored == ["ccc"]


def test_a_damaged_part_is_made_again(tmp_path):
    column(Store(tmp_path), ["a", "bb"], Costly())
    for part in (tmp_path / "parts").rglob("*.npz"):
        os.truncate(part, 10)
    again = Costly()
    assert column(Store(tmp_path), ["a", "bb", "c"], again).row(1) == [2.0]
    assert sorted(again.stored) == ["a", "bb", "c"]


def test_a_cheap_preparation_leaves_no_parts(tmp_path):
    preparation = Costly()
    preparation.costly = False
    column(Store(tmp_path), ["a"], preparation)
    assert not (tmp_path / "parts").exists()


def read_number(path):
    text = path.read_text()
    if text == "broken":
        raise BadContent("bad_array", "no number")
    return np.array([float(text)], dtype=np.float32)


class FirstOne(Costly):
    """Learns the first array of train."""

    learns, costly = True, False
    first = None

    def fit(self, contents):
        self.first = next(iter(contents)).tolist()
        return self

    def state(self):
        return {"first": self.first}

    def store(self, content):
        return content


def test_a_broken_array_file_is_left_out_of_fitting(tmp_path):
    files = []
    for name, text in (("a", "broken"), ("b", "7"), ("c", "8")):
        (tmp_path / name).write_text(text)
        files.append(ArrayFile(tmp_path / name, read_number))
    store = Store(tmp_path / "store")
    preparation = FirstOne()
    digests = store.digests(files, "here")
    found = prepared(store, "audio", files, digests, np.ones(3, bool), preparation)
    assert preparation.first == [7.0]
    assert [found.row(n) for n in range(3)] == [None, [7.0], [8.0]]
    assert found.bad == ((0, "bad_array", "no number"),)
    assert digests[1] == content_digest(tmp_path / "b")
