from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.encoders.sequences import MeanPool, SequencePreparation
from gmu_lightning.movie import BadContent, UserError


def test_frames_are_stored_as_they_are_and_a_spectrogram_with_time_first():
    frames, mel = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2)
    assert np.array_equal(SequencePreparation("video").fit([frames]).store(frames), frames)
    assert np.array_equal(SequencePreparation("audio").fit([mel]).store(mel), mel.T)


def test_the_size_of_a_step_is_that_of_trains_first_sequence():
    assert SequencePreparation("video").fit([np.zeros(7), np.zeros((2, 3)), np.zeros((2, 4))]).size == 3
    assert SequencePreparation("audio").fit([np.zeros((96, 10))]).size == 96


@pytest.mark.parametrize("steps", [1, 200, 1000])
def test_a_sequence_has_any_number_of_steps(steps):
    assert SequencePreparation("video", 3).store(np.ones((steps, 3))).shape == (steps, 3)


def test_longer_sequences_are_cut_to_max_steps():
    stored = SequencePreparation("audio", 2, max_steps=3).store(np.arange(10.0).reshape(2, 5))
    assert np.array_equal(stored, [[0, 5], [1, 6], [2, 7]])


def test_half_precision_is_on_disk_alone():
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
def test_a_trailer_is_refused_by_an_encoder_of_extracted_features(modality):
    with pytest.raises(
        UserError, match=f"{modality} is trailers, and this encoder/{modality} reads .*: choose encoder/{modality}=trailer"
    ):
        SequencePreparation(modality).fit([Path("trailer.mp4")])


def test_every_setting_that_changes_what_is_stored_is_in_the_fingerprint():
    settings = [{}, {"dim": 3}, {"max_steps": 5}, {"dtype": "float16"}]
    prints = [SequencePreparation("video", **setting).fingerprint for setting in settings]
    assert len(set(prints)) == 4
    assert SequencePreparation("video").fit([np.zeros((2, 3))]).fingerprint == prints[0]


def test_a_batch_is_padded_to_its_longest_and_an_absent_movie_is_one_step_of_zeros():
    values, mask = SequencePreparation("video", 2).batch([np.ones((3, 2)), None, np.ones((1, 2))], training=False)
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert values.sum(dim=(1, 2)).tolist() == [6, 0, 2]


def built(encoder, *arrays):
    encoder.preparation = encoder.preparation.fit(arrays)
    encoder.build()
    return encoder.eval(), encoder.preparation.batch([encoder.preparation.store(array) for array in arrays], training=False)


def test_the_mean_is_over_real_steps_and_the_steps_come_out_unchanged():
    encoder, inputs = built(MeanPool("video", freeze="all"), np.array([[1.0, 2], [3, 6]]), np.array([[5.0, 7]]))
    features = encoder(inputs)
    assert features.vector.tolist() == [[2, 4], [5, 7]]
    assert torch.equal(features.sequence, inputs.values) and torch.equal(features.mask, inputs.mask)
    assert encoder.constant and encoder.dim == 2 and not list(encoder.parameters())


def test_a_mean_with_a_dim_projects_each_step_and_is_trained():
    encoder, inputs = built(MeanPool("audio", dim=5), np.random.default_rng(0).normal(size=(3, 4)))
    features = encoder(inputs)
    assert torch.allclose(features.vector[0], encoder.network(inputs.values)[0].mean(dim=0), atol=1e-6)
    assert features.sequence.shape == (1, 4, 5) and not encoder.constant
    with pytest.raises(UserError, match="use none"):
        MeanPool("audio", dim=5, freeze="all")


def test_a_preparation_of_ones_own_may_make_the_steps():
    preparation = SequencePreparation("video", 6)
    assert MeanPool("video", preparation=preparation).preparation is preparation
    assert MeanPool("video", preparation=preparation).dim == 6


def test_a_preparation_that_needs_weights_is_asked_whether_it_finds_them():
    class Lacking(SequencePreparation):
        def check(self):
            raise UserError("no weights")

    with pytest.raises(UserError, match="no weights"):
        MeanPool("video", preparation=Lacking("video", 6)).check()
    MeanPool("video").check()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"dim": 0}, "dim=0"), ({"max_steps": 0}, "max_steps=0"), ({"dtype": "int8"}, "dtype=int8: give one of float32, float16")],
)
def test_an_impossible_setting_is_named(arguments, words):
    with pytest.raises(UserError, match=rf"encoder\.video\.{words}"):
        MeanPool("video", **arguments)
