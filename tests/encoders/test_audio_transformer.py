from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.encoders.trailers.audio_transformer import HuggingFaceAudio, windows
from gmu_lightning.movie import UserError

FAMILIES = ["ast", "wav2vec2", "whisper"]


def built(folder: Path, **arguments) -> HuggingFaceAudio:
    encoder = HuggingFaceAudio(str(folder), **{"window": 1.0, "freeze": "all", **arguments})
    encoder.build()
    return encoder.eval()


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (4, 1), (10, 1), (14, 1), (15, 2), (20, 2), (24, 2), (26, 3)])
def test_a_last_window_below_half_is_left_out_unless_alone(samples, count):
    cut = windows(np.ones(samples, dtype=np.float32), 10)
    assert cut.shape == (count, 10)
    assert cut.sum() == min(samples, count * 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_audio_networks_pass_the_checks_of_every_encoder(family, check_encoder, sound_folder, sounds):
    check_encoder(lambda: HuggingFaceAudio(str(sound_folder(family)), window=1.0, freeze="all"), sounds)


def test_a_window_becomes_the_networks_pooled_output(sound_folder, sounds):
    encoder = built(sound_folder("ast"))
    row = encoder.preparation.store(sounds[1])
    with torch.no_grad():
        features = encoder(encoder.preparation.batch([row], training=False))
        expected = encoder.network(torch.from_numpy(row)).pooler_output
    assert features.sequence.shape == (1, 2, 16)
    assert torch.allclose(features.sequence[0], expected, atol=1e-6)
    assert torch.allclose(features.vector[0], expected.mean(dim=0), atol=1e-6)


def test_a_window_without_pooled_output_becomes_its_mean(sound_folder, sounds):
    encoder = built(sound_folder("whisper"))
    row = encoder.preparation.store(sounds[0])
    with torch.no_grad():
        vector = encoder(encoder.preparation.batch([row], training=False)).vector
        expected = encoder.network(torch.from_numpy(row)).last_hidden_state.mean(dim=1)
    assert torch.allclose(vector, expected, atol=1e-6)


def test_only_the_first_seconds_are_read(sound_folder, sounds):
    preparation = HuggingFaceAudio(str(sound_folder("ast")), window=1.0, seconds=3.0).preparation
    assert len(preparation.store(sounds[2])) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_stem_and_the_layers(family, sound_folder):
    encoder = built(sound_folder(family), freeze=0)
    assert len(encoder.blocks()) == 4
    frozen = {name.split(".")[0] for name, p in encoder.network.named_parameters() if not p.requires_grad}
    stems = {"ast": {"embeddings"}, "wav2vec2": {"feature_extractor", "feature_projection"}}
    assert frozen == stems.get(family, {"conv1", "conv2", "embed_positions"})


def test_masking_for_pretraining_is_off(sound_folder):
    assert built(sound_folder("wav2vec2")).network.config.apply_spec_augment is False


def test_fingerprints_include_weights_window_and_dtype(sound_folder):
    encoders = [HuggingFaceAudio(str(sound_folder(family))) for family in FAMILIES]
    assert len({encoder.fingerprint for encoder in encoders}) == 3
    settings = [{}, {"window": 5.0}, {"seconds": 100.0}, {"dtype": "float16"}]
    prints = {HuggingFaceAudio(str(sound_folder("ast")), **setting).preparation.fingerprint for setting in settings}
    assert len(prints) == 4


def test_a_folder_without_a_feature_extractor_is_an_error(sound_folder, tmp_path):
    folder = shutil.copytree(sound_folder("ast"), tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"holds no preprocessor_config\.json; save the feature extractor"):
        HuggingFaceAudio(str(folder)).check()


def test_weights_of_another_network_are_an_error(sound_folder, tmp_path):
    folder = shutil.copytree(sound_folder("ast"), tmp_path / "mixed")
    shutil.copy(sound_folder("whisper") / "model.safetensors", folder)
    with pytest.raises(UserError, match=r"weights are missing .*; these are the weights of another network"):
        built(folder)


def test_a_spectrogram_is_refused(sound_folder):
    with pytest.raises(UserError, match="audio is ndarray and no trailer"):
        HuggingFaceAudio(str(sound_folder("ast"))).preparation.store(np.zeros((96, 100)))


def test_a_window_longer_than_the_seconds_is_an_error():
    with pytest.raises(UserError, match=r"window=9\.0 seconds=5\.0"):
        HuggingFaceAudio("anything", window=9.0, seconds=5.0)
