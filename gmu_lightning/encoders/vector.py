"""The encoder of vectors that were extracted beforehand, and the preparations of such arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Size
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.movie import BadContent, Features, UserError


class Vector(Encoder):
    """Pass one vector per movie through unchanged, float32 (size,).

    Args:
        modality: name of the modality.
        dim: size of the vector; None takes the size of train's first vector.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.
    """

    def __init__(self, modality: str, dim: Size | None = None, **common: Any):
        super().__init__(modality, pretrained=True, **common)
        self.preparation = VectorPreparation(modality, dim)

    @property
    def fingerprint(self) -> str:
        return "vector"

    def forward(self, inputs: Tensor) -> Features:
        return Features(inputs)

    def _load(self) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class ArrayPreparation:
    """Base class for arrays that were extracted beforehand. The size of their last axis is given, or learned from train.

    Attributes:
        dim: the requested size; None takes the size of train's arrays.
        learned: the size that `fit` found; None before.
        axes: number of axes of a stored array.
        kind: name of such an array in error sentences.
    """

    modality: str
    dim: int | None = None
    learned: int | None = None
    learns = True
    axes: ClassVar[int]
    kind: ClassVar[str]

    @property
    def fingerprint(self) -> str:
        """Return the kind of array and the requested size, as text."""
        return f"{self.kind} {self.dim}"

    @property
    def size(self) -> int:
        """Return the size of every array's last axis. Raises RuntimeError before `fit`."""
        size = self.dim or self.learned
        if size is None:
            raise RuntimeError(
                f"the size of the {self.modality} {self.kind}s was not learned yet: fit the preparation on train first"
            )
        return size

    def fit(self, contents: Iterable[Any]) -> Self:
        """Return a preparation that knows the size: the requested one, else that of the first array with the expected axes.

        Raises:
            UserError: train has no array with the expected number of axes, or its contents are not arrays of numbers.
        """
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
        """Return {"size": d}. Raises RuntimeError if the size is not known yet."""
        return {"size": self.size}

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Return a preparation with the size in `state`."""
        return replace(self, learned=state["size"])

    def _array(self, content: Any) -> np.ndarray:
        if isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
            return content
        given = "files" if isinstance(content, Path) else type(content).__name__
        raise UserError(
            f"this data set's {self.modality} is {given} and no {self.kind}; "
            f"choose another encoder/{self.modality}, or a source of extracted features (data.layout, data.{self.modality})"
        )


@dataclass(frozen=True)
class VectorPreparation(ArrayPreparation):
    """Store an array unchanged, as float32 (size,)."""

    axes = 1
    kind = "vector"

    def store(self, content: Any) -> np.ndarray:
        """Return one array as float32 (size,).

        Raises:
            BadContent: the shape is another, or a number is not finite.
            UserError: the content is no array of numbers.
        """
        array = self._array(content)
        if array.shape != (self.size,):
            raise BadContent("bad_array", f"shape {array.shape}, expected ({self.size},)")
        return finite(array, "float32")

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Tensor:
        """Return float32 (B, size), with zeros for absent rows."""
        vectors = np.zeros((len(rows), self.size), dtype=np.float32)
        for n, row in enumerate(rows):
            if row is not None:
                vectors[n] = row
        return torch.from_numpy(vectors)


def finite(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return the array in a dtype, row-major. Raises BadContent if a number is not finite in that dtype."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype)
    broken = int((~np.isfinite(stored)).sum())
    if broken:
        raise BadContent("bad_array", f"{broken} of {stored.size} numbers are not finite")
    return stored
