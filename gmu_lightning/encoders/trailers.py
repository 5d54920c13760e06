"""A trailer's frames through a pretrained image network, as they are decoded: what is stored is a vector per frame."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from gmu_lightning.encoders import decoding
from gmu_lightning.encoders.preparing import OfTrailers, check_positive, trailer
from gmu_lightning.encoders.sequences import DTYPES, SequenceInputs, padded_steps
from gmu_lightning.encoders.timm_network import TimmNetwork, scaled
from gmu_lightning.encoders.vector import finite
from gmu_lightning.files import digest
from gmu_lightning.movie import UserError

AT_ONCE = 16  # frames
OPTION = "encoder.video.preparation"


@dataclass(frozen=True)
class FramePreparation(OfTrailers):
    """A trailer is stored as (T, size): what a network says of its frames, `rate` a second, for the first `seconds`.

    As the published features of Moviescope were made: a frame a second of the first 200, through VGG-16
    (Cascante-Bonilla et al. 2019, arXiv 1908.03180).

    Attributes:
        name: the network, as `TimmNetwork` takes it.
        weights: where they are, if not where the name says.
        rate: frames a second.
        seconds: what lies beyond is not read.
        dtype: `float32` or `float16`, on disk.
        device: where the network is: `cpu`, or `cuda` (`cuda:1`, ...).

    Raises:
        UserError: an argument is out of its range; in all that is asked of it, weights are missing or do not fit.
    """

    name: str
    weights: str | None = None
    rate: float = 1.0
    seconds: float = 200.0
    dtype: str = "float32"
    device: str = "cpu"
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)  # the network, while it is needed

    def __post_init__(self) -> None:
        _ = self.network  # its name is looked at
        check_positive(OPTION, rate=self.rate, seconds=self.seconds)
        if self.dtype not in DTYPES:
            raise UserError(f"{OPTION}.dtype={self.dtype}: give one of {', '.join(DTYPES)}")

    @property
    def network(self) -> TimmNetwork:
        """Which network, and what its weights say of themselves."""
        return TimmNetwork(self.name, self.weights, OPTION)

    @property
    def size(self) -> int:
        """Of a frame's vector."""
        return self.network.width

    @property
    def fingerprint(self) -> str:
        """The weights, what they want a frame to look like, which frames, and the dtype."""
        look = [*self.network.identity, self.network.recipe.preparation.look]
        return digest(["frames", decoding.VERSION, *look, self.rate, self.seconds, self.dtype])

    def check(self) -> None:
        """Whether the weights are found, and the device is there. Raises UserError."""
        self.network.found()
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise UserError(
                f"{OPTION}.device={self.device} is not there ({why}): give cpu, or cuda where there is one"
            ) from error

    def store(self, content: Any) -> np.ndarray:
        """One trailer -> (T, size), T >= 1. Raises BadContent where it has no picture."""
        path = trailer(content, "video")
        return finite(decoding.twice(lambda: self._vectors(decoding.frames(path, self.rate, self.seconds))), self.dtype)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> SequenceInputs:
        """Frames padded to the longest row."""
        return padded_steps(rows, (self.size,))

    def close(self) -> None:
        """Let go of the network, and end the decoders."""
        self._loaded.clear()
        super().close()

    def _vectors(self, frames: Iterator[np.ndarray]) -> np.ndarray:
        """uint8 (H, W, 3), one by one -> float32 (T, size); no more than `AT_ONCE` are in memory."""
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
        """Loaded by whichever thread needs it first."""
        with _LOADING:
            if not self._loaded:
                self.check()
                with torch.random.fork_rng(devices=[]):
                    self._loaded.append(self.network.load().eval().requires_grad_(False).to(self.device))
            return self._loaded[0]


_LOADING = threading.Lock()
