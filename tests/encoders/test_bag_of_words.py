from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from gmu_lightning.encoders.text.bag_of_words import BagOfWords, WordPreparation, read_vectors, split
from gmu_lightning.movie import UserError

TRAIN = ["the thief robs the bank", "the pilot robs nobody", "Don't trust the thief"]


def fitted(**changes) -> WordPreparation:
    return WordPreparation(**({"max_words": 50, "min_count": 1, "vocabulary_size": 100} | changes)).fit(TRAIN)


def bag(preparation, **arguments) -> BagOfWords:
    encoder = BagOfWords(**{"dim": 3} | arguments)
    encoder.adopt(preparation)
    encoder.build()
    return encoder.eval()


def test_words_are_lower_case_and_keep_their_apostrophes():
    assert split("Don't stop: the CAFÉ, 1984!") == ["don't", "stop", "the", "café", "1984"]


def test_the_vocabulary_is_sorted_by_frequency_then_alphabet():
    assert fitted().words == ("the", "robs", "thief", "bank", "don't", "nobody", "pilot", "trust")
    assert fitted(min_count=2).words == ("the", "robs", "thief")
    assert fitted(vocabulary_size=2).words == ("the", "robs")


def test_words_missing_from_train_share_one_number():
    assert fitted().store("the zebra robs the gnu").tolist() == [1, 0, 2, 1, 0]


def test_a_plot_without_words_becomes_one_unknown_word():
    assert fitted().store("... !").tolist() == [0]


def test_long_plots_are_cut_to_max_words():
    assert fitted(max_words=2).store(TRAIN[0]).tolist() == [1, 3]


def test_storing_before_fit_is_an_error():
    with pytest.raises(RuntimeError, match="fit the preparation"):
        WordPreparation(50, 1, 100).store("the thief")


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_the_vector_is_the_mean_or_sum_of_its_words(mode):
    preparation = fitted()
    encoder = bag(preparation, mode=mode)
    rows = [preparation.store(text) for text in TRAIN]
    vectors = encoder(preparation.batch(rows, training=False)).vector
    for vector, row in zip(vectors, rows, strict=True):
        words = encoder.network.weight[torch.from_numpy(row.astype(np.int64))]
        assert torch.allclose(vector, getattr(words, mode)(dim=0), atol=1e-6)


def test_from_scratch_embeddings_start_small():
    assert bag(fitted(), dim=500).network.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("header", ["", "3 3\n"])
def test_embeddings_start_from_a_file_or_from_zero(tmp_path, header):
    path = tmp_path / "vectors.txt"
    path.write_text(header + "the 1 2 3\nthief .5 -1e-1 0\nzebra 9 9 9\n")
    encoder = bag(fitted(), vectors=str(path))
    assert encoder.network.weight[1].tolist() == [1, 2, 3]
    assert encoder.network.weight[3].tolist() == pytest.approx([0.5, -0.1, 0])
    assert encoder.network.weight[2].tolist() == [0, 0, 0]


def test_glove_words_with_spaces_are_read(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(". . . 7 7 7\nthe 1 2 3\n")
    assert bag(fitted(), vectors=str(path)).network.weight[1].tolist() == [1, 2, 3]


def test_frozen_word_vectors_are_constant(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2 3\n")
    encoder = bag(fitted(), vectors=str(path), freeze="all")
    assert encoder.constant and not encoder.network.weight.requires_grad
    before = encoder.fingerprint
    path.write_text("the 1 2 4\nx 1 1 1\n")
    assert encoder.fingerprint != before


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("the 1 2 3\nthief 1 2\n", "vectors.txt, line 2"),
        ("the 1 2 3\nrobs 1 two 3\n", "vectors.txt, line 2.*two"),
        ("the 1 2 nan\n", "line 1.*not finite"),
        ("5 300\nthe 1 2 3\n", "set encoder.text.dim=300"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, lines, words):
    path = tmp_path / "vectors.txt"
    path.write_text(lines)
    with pytest.raises(UserError, match=words):
        bag(fitted(), vectors=str(path))


def test_the_check_finds_a_missing_vector_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        BagOfWords(vectors=str(tmp_path / "none.txt")).check()


@pytest.mark.parametrize(
    "words",
    [
        ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u0935\u093f\u0936\u094d\u0935"],  # Hindi
        ["\u0ba4\u0bae\u0bbf\u0bb4\u0bcd", "\u0ba4\u0bbf\u0bb0\u0bc8"],  # Tamil
        ["\u09ac\u09be\u0982\u09b2\u09be", "\u09b0\u200d\u09cd\u09af\u09be\u09ac"],  # Bengali, with a joiner
        ["\u0e17\u0e35\u0e48", "\u0e20\u0e32\u0e1e\u0e22\u0e19\u0e15\u0e23\u0e4c"],  # Thai
        ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0628\u0631\u0648"],  # Persian, with a non-joiner
        ["i\u0307stanbul", "it's"],
    ],
    ids=["hindi", "tamil", "bengali", "thai", "persian", "turkish"],
)
def test_words_keep_their_combining_marks(words):
    assert split(f"{words[0]}, {words[1]}!") == words


def test_composed_and_decomposed_letters_are_equal(tmp_path):
    assert split("cafe\u0301") == split("caf\u00e9") == ["caf\u00e9"]
    (tmp_path / "vectors.txt").write_text("cafe\u0301 1 2 3\n", encoding="utf-8")
    assert read_vectors(tmp_path / "vectors.txt", ["caf\u00e9"], 3).tolist() == [[1.0, 2.0, 3.0]]


def test_english_splits_at_all_but_letters_and_apostrophes():
    text = (
        "Don't stop_it: rock'n'roll, O'Neil's 2nd (naive) co-op... 1984's ''x'' "
        "\u2019quoted\u2019 r\u00e9sum\u00e9 \U0001f600 1\ufe0f\u20e3 a\u200b b"
    )
    assert split(text) == re.findall(r"\w+(?:'\w+)*", text.lower())
