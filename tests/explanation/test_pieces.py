"""Contents are cut into pieces, of which each names its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmu_lightning.encoders.metadata import TablePreparation
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.temporal import SequencePreparation, StepPreparation
from gmu_lightning.encoders.text.bag_of_words import WordPreparation
from gmu_lightning.encoders.vector import VectorPreparation
from gmu_lightning.explanation.explain import shapley
from gmu_lightning.explanation.pieces import GRID, SPANS, pieces


def source(preparation: Any, key: str = "a", modality: str = "text") -> Any:
    return SimpleNamespace(preparation=preparation, stored=key, modality=modality)


class Seconds(StepPreparation):
    """Steps at a known rate."""

    size = 2

    def __init__(self, per_second: float):
        self.rate = per_second

    @property
    def per_second(self) -> float:
        return self.rate


def steps(count: int) -> np.ndarray:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)


def test_each_sentence_is_taken_from_the_text_as_typed():
    text = 'A "dog" 😀.\nThe war.  End.'
    words = WordPreparation(50, 1, 50).fit([text])
    found = list(pieces(text, [source(words)], {}))
    assert [text[p.where["start"] : p.where["end"]] for p in found] == ['A "dog" 😀.\n', "The war.  ", "End."]
    assert [p.arrays["a"].tolist() for p in found] == [
        words.store(t).tolist() for t in ("The war.  End.", 'A "dog" 😀.\nEnd.', 'A "dog" 😀.\nThe war.  ')
    ]  # type: ignore[union-attr]


def test_a_text_of_one_sentence_is_absent_without_it():
    (only,) = pieces("The war.", [source(WordPreparation(50, 1, 50).fit(["the war"]))], {})
    assert only.arrays == {"a": None}


def test_a_cell_of_a_poster_is_covered_with_its_mean_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 21, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "poster.png")
    preparation = PosterPreparation((14, 14), mode="squash")
    found = list(pieces(tmp_path / "poster.png", [source(preparation)], {}))
    assert [(p.where["row"], p.where["column"]) for p in found] == [(r, c) for r in range(1, 8) for c in range(1, 8)]
    edited = pixels.copy()
    edited[round(2 * 30 / GRID) : round(3 * 30 / GRID), 9:12] = pixels.reshape(-1, 3).mean(axis=0).round()
    Image.fromarray(edited).save(tmp_path / "edited.png")
    assert np.array_equal(found[2 * GRID + 3].arrays["a"], preparation.store(tmp_path / "edited.png"))


def test_each_second_of_a_sequence_is_dropped():
    arrays = {"a": steps(5), "b": steps(9)}
    found = list(pieces(object(), [source(Seconds(2.0), "a"), source(Seconds(4.0), "b")], arrays))
    assert [(p.where["from"], p.where["to"]) for p in found] == [(0, 1), (1, 2), (2, 3)]
    assert [p.arrays["a"][:, 0].tolist() for p in found] == [[4, 6, 8], [0, 2, 8], [0, 2, 4, 6]]  # type: ignore[index]
    assert [len(p.arrays["b"]) for p in found] == [5, 5, 8]  # type: ignore[arg-type]


def test_windows_longer_than_a_second_are_dropped_whole():
    found = list(pieces(object(), [source(Seconds(0.1))], {"a": steps(2)}))
    assert [p.where for p in found] == [{"from": 0.0, "to": 10.0}, {"from": 10.0, "to": 20.0}]
    assert [p.arrays["a"].tolist() for p in found] == [[[2, 3]], [[0, 1]]]  # type: ignore[union-attr]


def test_steps_without_a_time_are_dropped_one_by_one_or_in_spans():
    preparation = SequencePreparation("video", 2)
    found = list(pieces(steps(3), [source(preparation)], {"a": steps(3)}))
    assert [p.where for p in found] == [{"from_step": n, "to_step": n + 1} for n in range(3)]
    many = list(pieces(steps(1000), [source(preparation)], {"a": steps(1000)}))
    assert len(many) == SPANS and many[-1].where["to_step"] == 1000
    (one,) = pieces(steps(1), [source(preparation)], {"a": steps(1)})
    assert one.arrays == {"a": None}


def test_each_filled_column_that_the_run_knows_is_left_out():
    rows = [{"year": 1990 + n, "country": "Italy" if n % 2 else "Japan"} for n in range(20)]
    table = TablePreparation(1).fit(rows)
    found = list(pieces({"year": 1994, "country": "Italy", "other": "x", "empty": None}, [source(table)], {}))
    assert [p.where for p in found] == [{"column": "year"}, {"column": "country"}]
    assert np.array_equal(found[0].arrays["a"], table.store({"country": "Italy"}))
    (only,) = pieces({"year": 1994}, [source(table)], {})
    assert only.arrays == {"a": None}


def test_a_vector_has_no_pieces():
    assert not list(pieces(np.zeros(3), [source(VectorPreparation("image", 3))], {"a": np.zeros(3)}))


def test_shapley_values_of_a_known_game():
    # The third player is worth 3 with the first, and 1 without; the second is worth 2 always.
    def value(some: frozenset) -> np.ndarray:
        return np.array([2.0 * ("b" in some) + ("c" in some) * (3.0 if "a" in some else 1.0)])

    subsets = [frozenset(s) for s in ("", "a", "b", "c", "ab", "ac", "bc", "abc")]
    found = shapley({some: value(some) for some in subsets}, ["a", "b", "c"])
    assert {name: number.tolist() for name, number in found.items()} == {
        "a": pytest.approx([1.0]),
        "b": pytest.approx([2.0]),
        "c": pytest.approx([2.0]),
    }
