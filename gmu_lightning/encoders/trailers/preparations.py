"""Preparations that read trailers: one vector per frame, or a log-mel spectrogram of the sound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from gmu_lightning.config.ranges import Positive
from gmu_lightning.encoders.base import Unlearned
from gmu_lightning.encoders.temporal import Dtype, StepPreparation
from gmu_lightning.encoders.timm_network import TimmNetwork, scaled
from gmu_lightning.encoders.trailers import decoder_pool
from gmu_lightning.encoders.vector import finite
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, UserError
from gmu_lightning.visible import first_line

AT_ONCE = 16  # frames
OPTION = "encoder.video.preparation"
QUIETEST = 2.0**-16  # half a step of 16 bits; a sound that never exceeds it is silent
FLOOR = 1e-10  # smallest power, -100 dB
RANGE = 80.0  # dB between a trailer's loudest value and the smallest that is kept


class TrailerPreparation(StepPreparation, Unlearned):
    """Base class of preparations that decode trailers. A trailer takes seconds."""

    costly = True

    def close(self) -> None:
        """End all decoders of this process, those of other preparations included."""
        decoder_pool.release()


def trailer(content: Any, modality: str) -> Path:
    """Return the content, which is a trailer's path. Raises UserError for any other content."""
    if isinstance(content, Path):
        return content
    raise UserError(
        f"this data set's {modality} is {type(content).__name__} and no trailer; "
        f"choose an encoder/{modality} that reads extracted features, such as mean, or data.{modality}=trailers"
    )


@dataclass(frozen=True)
class FramePreparation(TrailerPreparation):
    """Store a trailer as (T, size), the network's vectors of T frames.

    Moviescope's published features have one frame per second of the first 200 seconds, through VGG-16
    (Cascante-Bonilla et al. 2019, arXiv 1908.03180).

    Attributes:
        name: the network, as in `TimmNetwork`.
        weights: a file, folder or repository that replaces the weights of `name`.
        rate: frames per second.
        seconds: frames after this time are not read.
        dtype: on disk, `float32` or `float16`.
        device: of the network: `cpu`, or `cuda` (`cuda:1`, ...).

    Raises:
        UserError: the name has no tag and no weights; in properties and methods, weights are missing or do not fit.
    """

    name: str
    weights: str | None = None
    rate: Positive = 1.0
    seconds: Positive = 200.0
    dtype: Dtype = "float32"
    device: str = "cpu"
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)  # the network, while it is needed

    def __post_init__(self) -> None:
        _ = self.network  # checks the name

    @property
    def network(self) -> TimmNetwork:
        """Return the network and its weights, not yet loaded."""
        return TimmNetwork(self.name, self.weights, OPTION)

    @property
    def size(self) -> int:
        """Return the size of a frame's vector."""
        return self.network.width

    @property
    def per_second(self) -> float:
        """Return the number of frames in a second."""
        return self.rate

    @property
    def fingerprint(self) -> str:
        """Return the hash of the weights, their preprocessing, the choice of frames and the dtype."""
        look = [*self.network.identity, self.network.recipe.preparation.look]
        return digest(["frames", decoder_pool.VERSION, *look, self.rate, self.seconds, self.dtype])

    def description(self) -> dict[str, bytes]:
        """Return {name: content} of the files that describe the network. Raises UserError if its weights are not found."""
        return self.network.description()

    def weights_of_network(self) -> dict[str, torch.Tensor]:
        """Return {name: tensor} of the network, loaded if needed. Raises UserError if the weights are missing."""
        return self._network().state_dict()

    def check(self) -> None:
        """Check that the weights are found and the device exists. Raises UserError."""
        self.network.found()
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            why = first_line(error)
            raise UserError(
                f"{OPTION}.device={self.device} is not there ({why}): give cpu, or cuda where there is one"
            ) from error

    def store(self, content: Any) -> np.ndarray:
        """Return the vectors of one trailer's frames, (T, size) in `dtype` with T >= 1. The first call loads the network.

        Raises:
            BadContent: the trailer has no picture or cannot be decoded, or a number is not finite in `dtype`.
            UserError: `content` is no path, or the weights or the device are missing.
        """
        path = trailer(content, "video")
        return finite(
            decoder_pool.with_retry(lambda: self._vectors(decoder_pool.frames(path, self.rate, self.seconds))), self.dtype
        )

    def close(self) -> None:
        """Release the network, and end the decoders."""
        self._loaded.clear()
        super().close()

    def _vectors(self, frames: Iterator[np.ndarray]) -> np.ndarray:
        """Return the vectors, float32 (T, size), of frames uint8 (H, W, 3). At most `AT_ONCE` frames are in memory."""
        network = self._network()
        posters = self.network.recipe.preparation
        mean, deviation = (colour.to(self.device) for colour in self.network.colours)
        vectors = []
        while some := [posters.cropped(Image.fromarray(frame)) for frame in islice(frames, AT_ONCE)]:
            pixels = torch.from_numpy(np.stack(some)).to(self.device).permute(0, 3, 1, 2)
            with torch.inference_mode():
                x = scaled(pixels, mean, deviation)
                vectors.append(network.forward_head(network.forward_features(x), pre_logits=True).float().cpu().numpy())
        return np.concatenate(vectors)

    def _network(self) -> Any:
        """Return the network, which the first call loads for all threads."""
        with _LOADING:
            if not self._loaded:
                self.check()
                with torch.random.fork_rng(devices=[]):
                    self._loaded.append(self.network.load().eval().requires_grad_(False).to(self.device))
            return self._loaded[0]


_LOADING = threading.Lock()


class Mel(NamedTuple):
    """The grid of a spectrogram."""

    bands: int  # number of mel bands, from 0 Hz to half the rate
    rate: int  # samples per second
    window: int  # samples
    hop: int  # samples
    seconds: float  # of the trailer, from its start


# 12 kHz and hops of 256 samples follow Choi et al. 2016 (arXiv 1606.00298), the source of Moviescope's spectrograms. The grid of
# 128 bands covers four clips of 30 s (Cascante-Bonilla et al. 2019, arXiv 1908.03180). The grid of 96 bands covers 200 s, like
# the frames.
MELS = {"mel96": Mel(96, 12_000, 512, 256, 200.0), "mel128": Mel(128, 12_000, 512, 256, 120.0)}


@dataclass(frozen=True)
class MelPreparation(TrailerPreparation):
    """Store a trailer's sound as (T, bands): the power of each mel band at each hop, in decibels.

    It uses Slaney's mel scale and area normalisation, and a Hann window centred on each hop. Values are 10 log10 of the power.
    They are at least -100 dB, and at least the trailer's loudest value minus 80 dB.

    Attributes:
        preset: `mel96` or `mel128`.
        seconds: sound after this time is not read; None takes the preset's value.
        dtype: on disk, `float32` or `float16`.
    """

    preset: Literal["mel96", "mel128"]
    seconds: Positive | None = None
    dtype: Dtype = "float32"

    @property
    def mel(self) -> Mel:
        """Return the grid of `preset`, with `seconds` in place of its own if given."""
        mel = MELS[self.preset]
        return mel if self.seconds is None else mel._replace(seconds=self.seconds)

    @property
    def size(self) -> int:
        """Return the number of bands."""
        return self.mel.bands

    @property
    def per_second(self) -> float:
        """Return the number of hops in a second."""
        return self.mel.rate / self.mel.hop

    @property
    def fingerprint(self) -> str:
        """Return the hash of the grid, the floors, the dtype and the decoder's version."""
        return digest(["log-mel", decoder_pool.VERSION, self.mel, FLOOR, RANGE, self.dtype])

    def store(self, content: Any) -> np.ndarray:
        """Return the spectrogram of one trailer, (T, bands) in `dtype`.

        Args:
            content: path of the trailer.

        Raises:
            BadContent: the sound is missing, silent or undecodable, or a number is not finite in `dtype`.
            UserError: `content` is no path.
        """
        mel = self.mel
        return finite(log_mel(waveform(trailer(content, "audio"), mel.rate, mel.seconds), mel), self.dtype)


def waveform(path: Path, rate: int, seconds: float) -> np.ndarray:
    """Return a trailer's sound as one channel, the mean of all, float32 (n,) at `rate` samples per second.

    Args:
        path: the trailer's file.
        rate: samples per second.
        seconds: sound after this time is not read.

    Raises:
        BadContent: the trailer has no sound, none of its samples exceeds 2^-16, or its sound cannot be decoded.
        Released: the decoders were ended meanwhile.
    """
    samples = decoder_pool.with_retry(lambda: np.concatenate([np.zeros(0, np.float32), *decoder_pool.sound(path, rate, seconds)]))
    if not np.abs(samples).max(initial=0) > QUIETEST:
        raise BadContent("missing_audio", f"its sound is silent for the {len(samples) / rate:.0f} s that are read")
    return samples


def log_mel(samples: np.ndarray, mel: Mel) -> np.ndarray:
    """Return the log-mel spectrogram of samples (n,) at `mel.rate` samples per second, float32 (T, bands) in decibels.

    T is 1 + n // hop. Samples shorter than a window are padded with silence to its length first.
    """
    from transformers.audio_utils import spectrogram, window_function

    samples = np.pad(samples, (0, max(0, mel.window - len(samples))))
    grid = {"frame_length": mel.window, "hop_length": mel.hop, "center": True, "pad_mode": "constant"}
    scale = {"power": 2.0, "mel_floor": FLOOR, "log_mel": "dB", "min_value": FLOOR, "db_range": RANGE}
    decibels = spectrogram(samples, window_function(mel.window, "hann"), mel_filters=_filters(mel), **grid, **scale)
    return np.ascontiguousarray(decibels.T, dtype=np.float32)


@lru_cache(maxsize=4)
def _filters(mel: Mel) -> np.ndarray:
    """Return the filters of the mel bands, (1 + window / 2, bands)."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(1 + mel.window // 2, mel.bands, 0.0, mel.rate / 2, mel.rate, norm="slaney", mel_scale="slaney")
