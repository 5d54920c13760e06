from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.encoders.temporal import MeanPool, SequencePreparation
from gmu_lightning.movie import BadContent, UserError


def test_spectrograms_are_stored_with_time_first():
    frames, mel = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2)
    assert np.array_equal(SequencePreparation("video").fit([frames]).store(frames), frames)
    assert np.array_equal(SequencePreparation("audio").fit([mel]).store(mel), mel.T)


def test_the_size_is_that_of_the_first_sequence():
    assert SequencePreparation("video").fit([np.zeros(7), np.zeros((2, 3)), np.zeros((2, 4))]).size == 3
    assert SequencePreparation("audio").fit([np.zeros((96, 10))]).size == 96


def test_longer_sequences_are_cut_to_max_steps():
    stored = SequencePreparation("audio", 2, max_steps=3).store(np.arange(10.0).reshape(2, 5))
    assert np.array_equal(stored, [[0, 5], [1, 6], [2, 7]])


def test_half_precision_is_only_on_disk():
    preparation = SequencePreparation("video", 2, dtype="float16")
    row = preparation.store(np.ones((4, 2)))
    assert row.dtype == np.float16
    assert preparation.batch([row], training=False).values.dtype == torch.float32


@pytest.mark.parametrize(
    ("modality", "array", "words"),
    [
        ("video", np.zeros((5, 3)), r"shape \(5, 3\), expected \(steps, 4\)"),
        ("audio", np.zeros((5, 4)), r"shape \(5, 4\), expected \(4, steps\)"),
        ("video", np.zeros((1, 5, 4)), r"shape \(1, 5, 4\)"),
        ("video", np.zeros((0, 4)), r"shape \(0, 4\)"),
        ("audio", np.zeros((4, 0)), r"shape \(4, 0\)"),
        ("video", np.array([[0, 1, np.nan, np.inf]]), "2 of 4 numbers are not finite"),
    ],
)
def test_a_misshapen_or_infinite_array_is_bad(modality, array, words):
    with pytest.raises(BadContent, match=words) as caught:
        SequencePreparation(modality, 4).store(array)
    assert caught.value.kind == "bad_array"


def test_a_number_too_large_for_half_precision_is_bad():
    with pytest.raises(BadContent, match="1 of 2"):
        SequencePreparation("video", 2, dtype="float16").store(np.array([[1.0, 1e6]]))


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_trailer_is_refused(modality):
    with pytest.raises(
        UserError, match=f"{modality} is trailers, and this encoder/{modality} reads .*: choose encoder/{modality}=trailer"
    ):
        SequencePreparation(modality).fit([Path("trailer.mp4")])


def test_the_fingerprint_includes_every_setting():
    settings = [{}, {"dim": 3}, {"max_steps": 5}, {"dtype": "float16"}]
    prints = [SequencePreparation("video", **setting).fingerprint for setting in settings]
    assert len(set(prints)) == 4
    assert SequencePreparation("video").fit([np.zeros((2, 3))]).fingerprint == prints[0]


def test_an_absent_movie_becomes_one_step_of_zeros():
    values, mask = SequencePreparation("video", 2).batch([np.ones((3, 2)), None, np.ones((1, 2))], training=False)
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert values.sum(dim=(1, 2)).tolist() == [6, 0, 2]


def built(encoder, *arrays):
    encoder.adopt(encoder.preparation.fit(arrays))
    encoder.build()
    return encoder.eval(), encoder.preparation.batch([encoder.preparation.store(array) for array in arrays], training=False)


def test_the_mean_is_over_real_steps():
    encoder, inputs = built(MeanPool("video", freeze="all"), np.array([[1.0, 2], [3, 6]]), np.array([[5.0, 7]]))
    features = encoder(inputs)
    assert features.vector.tolist() == [[2, 4], [5, 7]]
    assert torch.equal(features.sequence, inputs.values) and torch.equal(features.mask, inputs.mask)
    assert encoder.constant and encoder.dim == 2 and not list(encoder.parameters())


def test_a_mean_with_dim_projects_each_step():
    encoder, inputs = built(MeanPool("audio", dim=5), np.random.default_rng(0).normal(size=(3, 4)))
    features = encoder(inputs)
    assert torch.allclose(features.vector[0], encoder.network(inputs.values)[0].mean(dim=0), atol=1e-6)
    assert features.sequence.shape == (1, 4, 5) and not encoder.constant
    with pytest.raises(UserError, match="use none"):
        MeanPool("audio", dim=5, freeze="all")


def test_the_check_includes_the_preparation():
    class Lacking(SequencePreparation):
        def check(self):
            raise UserError("no weights")

    with pytest.raises(UserError, match="no weights"):
        MeanPool("video", preparation=Lacking("video", 6)).check()
    MeanPool("video").check()
