"""Features that somebody extracted before: the vector is the content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.movie import BadContent, Features, UserError


class Vector(Encoder):
    """One array per movie, passed through unchanged.

    Args:
        modality: which of the data set's.
        dim: its size; None takes that of train's first movie.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.
    """

    def __init__(self, modality: str, dim: int | None = None, **common: Any):
        super().__init__(modality, pretrained=True, **common)
        if dim is not None and dim < 1:
            raise UserError(f"encoder.{modality}.dim={dim}: give at least 1, or null for the size of train's vectors")
        self.preparation = VectorPreparation(modality, dim)

    @property
    def dim(self) -> int:
        assert isinstance(self.preparation, VectorPreparation)
        return self.preparation.size

    @property
    def fingerprint(self) -> str:
        return "vector"

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def forward(self, inputs: Tensor) -> Features:
        return Features(inputs)

    def _load(self) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class ArrayPreparation:
    """Arrays that somebody extracted before; the size of their last axis is given, or learned from train.

    Attributes:
        dim: the size asked for, None for train's own.
        learned: the size that `fit` found, None before.
        axes: how many axes an array has as it is stored.
        kind: what such an array is called.
    """

    modality: str
    dim: int | None = None
    learned: int | None = None
    learns = True
    axes: ClassVar[int]
    kind: ClassVar[str]

    @property
    def fingerprint(self) -> str:
        """The kind of array and the size asked for."""
        return f"{self.kind} {self.dim}"

    @property
    def size(self) -> int:
        """Of every last axis. Raises RuntimeError where it is still to be learned."""
        size = self.dim or self.learned
        if size is None:
            raise RuntimeError(
                f"the size of the {self.modality} {self.kind}s was not learned yet: fit the preparation on train first"
            )
        return size

    def fit(self, contents: Iterable[Any]) -> Self:
        """With the size of the first array that has as many axes as expected, unless it was given."""
        if self.dim is not None:
            return self
        other = ""
        for content in contents:
            array = self._array(content)
            if array.ndim == self.axes:
                return replace(self, learned=array.shape[-1])
            other = other or f": the first array there has the shape {content.shape}"
        raise UserError(f"no movie of train has a {self.modality} {self.kind}{other}; choose other modalities")

    def state(self) -> dict[str, Any]:
        """{"size": d}"""
        return {"size": self.size}

    def restored(self, state: Mapping[str, Any]) -> Self:
        """With that size."""
        return replace(self, learned=state["size"])

    def _array(self, content: Any) -> np.ndarray:
        if isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
            return content
        raise UserError(
            f"this data set's {self.modality} is {_called(content)} and no {self.kind}; "
            f"choose another encoder/{self.modality}, or a source of extracted features (data.layout, data.{self.modality})"
        )


@dataclass(frozen=True)
class VectorPreparation(ArrayPreparation):
    """An array is stored as it is: float32 (size,)."""

    axes = 1
    kind = "vector"

    def store(self, content: Any) -> np.ndarray:
        """One array -> float32 (size,). Raises BadContent where its shape is another or a number is not finite."""
        array = self._array(content)
        if array.shape != (self.size,):
            raise BadContent("bad_array", f"shape {array.shape}, expected ({self.size},)")
        return finite(array, "float32")

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Tensor:
        """(B, size) float32, zeros where absent."""
        vectors = np.zeros((len(rows), self.size), dtype=np.float32)
        for n, row in enumerate(rows):
            if row is not None:
                vectors[n] = row
        return torch.from_numpy(vectors)


def _called(content: Any) -> str:
    return "files" if isinstance(content, Path) else type(content).__name__


def finite(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array in that dtype. Raises BadContent where a number is not finite in it."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype)
    broken = int((~np.isfinite(stored)).sum())
    if broken:
        raise BadContent("bad_array", f"{broken} of {stored.size} numbers are not finite")
    return stored
