from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.encoders.temporal import MelConv
from gmu_lightning.encoders.trailers.preparations import MELS, MelPreparation, log_mel, waveform
from gmu_lightning.movie import BadContent, UserError

from . import clips

MEL96 = MELS["mel96"]


def tone(frequency: float) -> np.ndarray:
    """Return one second of a tone."""
    return np.sin(2 * np.pi * frequency * np.arange(MEL96.rate) / MEL96.rate).astype(np.float32)


def slaney(mels: np.ndarray) -> np.ndarray:
    """Convert mels to hertz as in the Auditory Toolbox (Slaney 1998): linear below 1 kHz, logarithmic above."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


def by_hand(samples: np.ndarray, bands: int) -> np.ndarray:
    """Compute a spectrogram from its definition, (T, bands) in decibels, without the limit of 80 dB."""
    padded = np.pad(samples, 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([padded[at : at + 512] * window for at in range(0, len(padded) - 511, 256)])
    power = np.abs(np.fft.rfft(frames)) ** 2  # (T, 257)
    top = 15 + 27 * np.log(6) / np.log(6.4)
    edges = slaney(np.linspace(0, top, bands + 2))
    hertz = np.arange(257) * 12_000 / 512
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.clip(np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid)), 0, None) * 2 / (high - low)
    return 10 * np.log10(np.maximum(power @ triangles.T, 1e-10))


@pytest.mark.parametrize("preset", ["mel96", "mel128"])
def test_a_spectrogram_follows_its_definition(preset):
    samples = np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32)
    mel = MELS[preset]
    assert np.allclose(log_mel(samples, mel), by_hand(samples, mel.bands), atol=1e-3)


def test_values_are_within_80_decibels_of_the_loudest():
    decibels = log_mel(np.concatenate([tone(500.0), np.zeros(12_000, np.float32)]), MEL96)
    assert decibels.max() - decibels.min() == pytest.approx(80, abs=1e-3)


def test_a_sound_shorter_than_a_window_has_a_spectrogram():
    decibels = log_mel(tone(500.0)[:100], MEL96)
    assert decibels.shape == (3, 96)
    assert np.isfinite(decibels).all()


@pytest.mark.parametrize(("preset", "shape"), [("mel96", (141, 96)), ("mel128", (141, 128))])
def test_a_trailer_becomes_steps_times_bands(tmp_path, preset, shape):
    row = MelPreparation(preset).store(clips.write(tmp_path / "1.mp4", seconds=3.0, picture=False))
    assert (row.shape, row.dtype) == ((pytest.approx(shape[0], abs=3), shape[1]), np.float32)


def test_only_the_first_seconds_become_steps(tmp_path):
    path = clips.write(tmp_path / "1.mp4", picture=False)
    assert MelPreparation("mel96", seconds=1.0).store(path).shape == (1 + 12_000 // 256, 96)


@pytest.mark.parametrize("channels", [(0.0,), (0.0, 0.0)])
def test_a_silent_sound_is_an_error(tmp_path, channels):
    with pytest.raises(BadContent, match="its sound is silent for the 3 s that are read") as bad:
        MelPreparation("mel96").store(clips.write(tmp_path / "1.mkv", channels=channels))
    assert bad.value.kind == "missing_audio"


@pytest.mark.parametrize("amplitude", [0.01, 0.001])
def test_a_quiet_sound_is_read(tmp_path, amplitude):
    heard = waveform(clips.write(tmp_path / "1.mkv", channels=(amplitude,)), 16_000, 200.0)
    assert amplitude / 2 < np.abs(heard).max() < 2 * amplitude


def test_the_fingerprint_includes_grid_and_dtype():
    settings = [("mel96",), ("mel128",), ("mel96", 100.0), ("mel96", None, "float16")]
    assert len({MelPreparation(*setting).fingerprint for setting in settings}) == len(settings)
    assert MelPreparation("mel96", 200.0).fingerprint == MelPreparation("mel96").fingerprint


def test_an_extracted_spectrogram_is_refused():
    with pytest.raises(UserError, match=r"audio is ndarray and no trailer; choose an encoder/audio that reads extracted"):
        MelPreparation("mel96").store(np.zeros((96, 100)))


def test_a_narrow_convolution_passes_the_checks_of_encoders(check_encoder, trailers):
    check_encoder(lambda: MelConv(dim=8, tokens=4, kernel=4, preparation=MelPreparation("mel96")), trailers)
