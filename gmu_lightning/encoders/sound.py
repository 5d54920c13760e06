"""A trailer's sound: its waveform, and log-mel spectrograms of it as the published features of Moviescope were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.encoders import decoding
from gmu_lightning.encoders.preparing import OfTrailers, check_positive, trailer
from gmu_lightning.encoders.sequences import DTYPES, SequenceInputs, padded_steps
from gmu_lightning.encoders.vector import finite
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, UserError

QUIETEST = 2.0**-16  # half a step of 16 bits: what never exceeds it is silence
FLOOR = 1e-10  # power, -100 dB
RANGE = 80.0  # dB below a trailer's loudest


class Mel(NamedTuple):
    """A spectrogram's grid."""

    bands: int
    rate: int  # samples a second
    window: int  # samples
    hop: int  # samples
    seconds: float  # of the trailer, from its start


# 12 kHz and hops of 256 (Choi et al. 2016, arXiv 1606.00298, from which Moviescope's were made); the 128 bands are of four clips
# of 30 s (Cascante-Bonilla et al. 2019, arXiv 1908.03180), the 96 of the 200 s whose frames are read.
MELS = {"mel96": Mel(96, 12_000, 512, 256, 200.0), "mel128": Mel(128, 12_000, 512, 256, 120.0)}


@dataclass(frozen=True)
class MelPreparation(OfTrailers):
    """A trailer's sound is stored as (T, bands): decibels of power in each band of mel frequencies, at each hop.

    Slaney's mel scale and areas, a Hann window centred on its hop, 10 log10 of the power, no less than 80 dB below the loudest.

    Attributes:
        preset: `mel96` or `mel128`.
        seconds: what lies beyond is not read; None for the preset's own.
        dtype: `float32` or `float16`, on disk.

    Raises:
        UserError: an argument is out of its range.
    """

    preset: str
    seconds: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        where = "encoder.audio.preparation"
        if self.preset not in MELS:
            raise UserError(f"{where}.preset={self.preset}: give one of {', '.join(MELS)}")
        if self.seconds is not None:
            check_positive(where, seconds=self.seconds)
        if self.dtype not in DTYPES:
            raise UserError(f"{where}.dtype={self.dtype}: give one of {', '.join(DTYPES)}")

    @property
    def mel(self) -> Mel:
        """The grid."""
        mel = MELS[self.preset]
        return mel if self.seconds is None else mel._replace(seconds=self.seconds)

    @property
    def size(self) -> int:
        """Bands."""
        return self.mel.bands

    @property
    def fingerprint(self) -> str:
        """The grid and the dtype."""
        return digest(["log-mel", decoding.VERSION, self.mel, FLOOR, RANGE, self.dtype])

    def store(self, content: Any) -> np.ndarray:
        """One trailer -> (T, bands). Raises BadContent where it has no sound."""
        mel = self.mel
        return finite(log_mel(waveform(trailer(content, "audio"), mel.rate, mel.seconds), mel), self.dtype)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> SequenceInputs:
        """Steps padded to the longest row."""
        return padded_steps(rows, (self.size,))


def waveform(path: Path, rate: int, seconds: float) -> np.ndarray:
    """float32 (samples,): the first `seconds` of a trailer's sound, `rate` samples a second, the mean of its channels.

    Raises:
        BadContent: it has none, or one that cannot be decoded, or nothing is to be heard in it.
    """
    samples = decoding.twice(lambda: np.concatenate([np.zeros(0, np.float32), *decoding.sound(path, rate, seconds)]))
    if not np.abs(samples).max(initial=0) > QUIETEST:
        raise BadContent("missing_audio", f"its sound is silent for the {len(samples) / rate:.0f} s that are read")
    return samples


def log_mel(samples: np.ndarray, mel: Mel) -> np.ndarray:
    """(samples,) -> (T, bands) float32, decibels; T = 1 + samples / hop, a sound shorter than a window filled up with silence."""
    from transformers.audio_utils import spectrogram, window_function

    samples = np.pad(samples, (0, max(0, mel.window - len(samples))))
    decibels = spectrogram(
        samples,
        window_function(mel.window, "hann"),
        frame_length=mel.window,
        hop_length=mel.hop,
        power=2.0,
        center=True,
        pad_mode="constant",
        mel_filters=_filters(mel),
        mel_floor=FLOOR,
        log_mel="dB",
        min_value=FLOOR,
        db_range=RANGE,
    )
    return np.ascontiguousarray(decibels.T, dtype=np.float32)


@lru_cache(maxsize=4)
def _filters(mel: Mel) -> np.ndarray:
    """(1 + window / 2, bands)"""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        num_frequency_bins=1 + mel.window // 2,
        num_mel_filters=mel.bands,
        min_frequency=0.0,
        max_frequency=mel.rate / 2,
        sampling_rate=mel.rate,
        norm="slaney",
        mel_scale="slaney",
    )
