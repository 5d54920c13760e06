"""Features of a trailer's frames or sound, one step after the other, extracted before: how they are stored, batched, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.tokens import masked_mean
from gmu_lightning.encoders.vector import ArrayPreparation, finite
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, Features, Preparation, UserError

DTYPES = ("float32", "float16")
READ_TRAILERS = {"video": "encoder/video=trailer", "audio": "encoder/audio=trailer_mel96"}


class SequenceInputs(NamedTuple):
    """B sequences, padded to the longest."""

    values: Tensor  # (B, T, d) float32, zeros where no step is
    mask: Tensor  # (B, T) bool, True where a step is


@dataclass(frozen=True)
class SequencePreparation(ArrayPreparation):
    """Frames (T, d) are stored as they are, a log-mel spectrogram (bands, T) is turned: (T, bands).

    Attributes:
        max_steps: longer sequences are cut to so many steps; None keeps all.
        dtype: `float32` or `float16`, on disk.
    """

    max_steps: int | None = None
    dtype: str = "float32"
    axes = 2
    kind = "sequence"

    @property
    def fingerprint(self) -> str:
        """The size asked for, the length and the dtype."""
        return f"{super().fingerprint} {self.max_steps} {self.dtype}"

    def store(self, content: Any) -> np.ndarray:
        """One array -> (T, size), T >= 1. Raises BadContent where its shape is another or a number is not finite."""
        array = self._array(content)
        if array.ndim != 2 or array.shape[1] != self.size or not len(array):
            expected = f"({self.size}, steps)" if self._turned else f"(steps, {self.size})"
            raise BadContent("bad_array", f"shape {content.shape}, expected {expected}")
        return finite(array[: self.max_steps], self.dtype)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> SequenceInputs:
        """Steps padded to the longest row."""
        return padded_steps(rows, (self.size,))

    @property
    def _turned(self) -> bool:
        return self.modality == "audio"

    def _array(self, content: Any) -> np.ndarray:
        if isinstance(content, Path):
            raise UserError(
                f"this data set's {self.modality} is trailers, and this encoder/{self.modality} reads extracted features: "
                f"choose {READ_TRAILERS[self.modality]}, or another data.{self.modality}"
            )
        array = super()._array(content)
        return array.T if self._turned and array.ndim == 2 else array


def padded_steps(rows: Sequence[np.ndarray | None], step: tuple[int, ...]) -> SequenceInputs:
    """Rows of (T, *step) -> values (B, T, *step); an absent row becomes one step of zeros, so that no row is all masked."""
    longest = max((len(row) for row in rows if row is not None), default=1)
    values = np.zeros((len(rows), longest, *step), dtype=np.float32)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for n, row in enumerate(rows):
        mask[n, : 1 if row is None else len(row)] = True
        if row is not None:
            values[n, : len(row)] = row
    return SequenceInputs(torch.from_numpy(values), torch.from_numpy(mask))


class SequenceEncoder(Encoder):
    """What encoders of steps share; a subclass makes the network and turns its output into `Features`.

    Args:
        modality: `video`, of arrays (T, d), or `audio`, of arrays (bands, T).
        dim: size of the vector and of each step of the sequence; None for that of the steps as they come in.
        sizes: the other numbers that the network is made by, each at least 1.
        max_steps: longer sequences are cut to so many steps; None reads all.
        dtype: steps are kept on disk as `float32`, or as `float16` in half the space.
        preparation: makes steps (T, size) of something else than extracted features, and says their `size`; `max_steps` and
            `dtype` are its own matter then.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: an argument is out of its range.
    """

    sequences = True

    def __init__(
        self,
        modality: str,
        dim: int | None,
        sizes: Mapping[str, int] = MappingProxyType({}),
        *,
        max_steps: int | None = None,
        dtype: str = "float32",
        preparation: Preparation | None = None,
        pretrained: bool = False,
        **common: Any,
    ):
        super().__init__(modality, pretrained=pretrained, **common)
        for name, value in {**sizes, "dim": dim, "max_steps": max_steps}.items():
            if value is not None and value < 1:
                raise UserError(f"encoder.{modality}.{name}={value}: give at least 1")
        if dtype not in DTYPES:
            raise UserError(f"encoder.{modality}.dtype={dtype}: give one of {', '.join(DTYPES)}")
        self._dim, self.sizes = dim, dict(sizes)
        self.preparation = preparation or SequencePreparation(modality, max_steps=max_steps, dtype=dtype)

    @property
    def size(self) -> int:
        """Of one step as it comes in."""
        return self.preparation.size  # type: ignore[attr-defined]

    @property
    def dim(self) -> int:
        return self._dim or self.size

    @property
    def fingerprint(self) -> str:
        return digest([type(self).__name__, self._dim, self.sizes])

    def check(self) -> None:
        """Whether a preparation with a network of its own will find that. Raises UserError where it will not."""
        if hasattr(self.preparation, "check"):
            self.preparation.check()

    def blocks(self) -> list[nn.Module]:
        return [self.network]


class MeanPool(SequenceEncoder):
    """The average over the steps.

    Args:
        modality: `video` or `audio`.
        dim: each step is projected to so many numbers first, which is trained; None leaves them as they are: nothing to train.
        bias: of the projection.
        options: of `SequenceEncoder`.
    """

    def __init__(self, modality: str, dim: int | None = None, bias: bool = True, **options: Any):
        super().__init__(modality, dim, pretrained=dim is None, **options)
        self.bias = bias

    def forward(self, inputs: SequenceInputs) -> Features:
        sequence = self.network(inputs.values)  # (B, T, dim)
        return Features(masked_mean(sequence, inputs.mask), sequence, inputs.mask)

    def _load(self) -> nn.Module:
        return nn.Identity() if self._dim is None else nn.Linear(self.size, self._dim, bias=self.bias)
