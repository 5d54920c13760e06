from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.encoders.vector import Vector, VectorPreparation
from gmu_lightning.movie import BadContent, UserError


def test_the_vector_equals_the_content():
    encoder = Vector("text", freeze="all")
    encoder.adopt(encoder.preparation.fit([np.arange(4.0)]))
    encoder.build()
    row = encoder.preparation.store(np.array([1, 2, 3, 4], dtype=np.float16))
    assert row.dtype == np.float32 and encoder.dim == 4 and encoder.constant
    assert torch.equal(encoder(encoder.preparation.batch([row], training=False)).vector, torch.tensor([[1.0, 2, 3, 4]]))


def test_the_size_is_that_of_the_first_vector():
    assert VectorPreparation("image", None).fit([np.zeros((2, 3)), np.zeros(5), np.zeros(6)]).size == 5


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3), r"shape \(3,\), expected \(4,\)"),
        (np.zeros((1, 4)), r"shape \(1, 4\)"),
        (np.array([0, 1, np.nan, np.inf]), "2 of 4 numbers are not finite"),
        (np.array([0, 0, 0, 1e300]), "1 of 4"),
    ],
)
def test_a_misshapen_or_infinite_array_is_bad(array, words):
    with pytest.raises(BadContent, match=words) as caught:
        VectorPreparation("image", 4).store(array)
    assert caught.value.kind == "bad_array"


def test_a_requested_size_overrides_the_datas():
    fitted = VectorPreparation("image", 4).fit([np.zeros(5)])
    assert fitted.size == 4
    assert fitted.fingerprint != VectorPreparation("image", None).fingerprint


@pytest.mark.parametrize("content", ["a plot", Path("poster.jpeg"), np.array(["words"])])
def test_a_content_that_is_no_vector_is_refused(content):
    with pytest.raises(UserError, match="choose another encoder/text"):
        VectorPreparation("text", 4).store(content)


def test_a_train_split_without_vectors_is_an_error():
    with pytest.raises(UserError, match="no movie of train has a text vector"):
        VectorPreparation("text", None).fit([])
