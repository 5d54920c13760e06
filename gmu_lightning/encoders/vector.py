"""Features that somebody extracted before: the vector is the content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
class VectorPreparation:
    """An array is stored as it is: float32 (size,).

    Attributes:
        dim: the size asked for, None for train's own.
        learned: the size that `fit` found, None before.
    """

    modality: str
    dim: int | None
    learned: int | None = None
    learns = True

    @property
    def fingerprint(self) -> str:
        """The size asked for."""
        return f"vector {self.dim}"

    @property
    def size(self) -> int:
        """Of every vector. Raises RuntimeError where it is still to be learned."""
        size = self.dim or self.learned
        if size is None:
            raise RuntimeError(f"the size of the {self.modality} vectors was not learned yet: fit the preparation on train first")
        return size

    def fit(self, contents: Iterable[Any]) -> VectorPreparation:
        """With the size of the first array that has one axis, unless it was given."""
        if self.dim is not None:
            return self
        for content in contents:
            array = self._array(content)
            if array.ndim == 1:
                return replace(self, learned=len(array))
        raise UserError(f"no movie of train has a {self.modality} vector; choose other modalities")

    def state(self) -> dict[str, Any]:
        """{"size": d}"""
        return {"size": self.size}

    def restored(self, state: Mapping[str, Any]) -> VectorPreparation:
        """With that size."""
        return replace(self, learned=state["size"])

    def store(self, content: Any) -> np.ndarray:
        """One array -> float32 (size,). Raises BadContent where its shape is another or a number is not finite."""
        array = self._array(content)
        if array.shape != (self.size,):
            raise BadContent("bad_array", f"shape {array.shape}, expected ({self.size},)")
        stored = array.astype(np.float32)
        if not np.isfinite(stored).all():
            raise BadContent("bad_array", f"{int((~np.isfinite(stored)).sum())} of {self.size} numbers are not finite")
        return stored

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Tensor:
        """(B, size) float32, zeros where absent."""
        vectors = np.zeros((len(rows), self.size), dtype=np.float32)
        for n, row in enumerate(rows):
            if row is not None:
                vectors[n] = row
        return torch.from_numpy(vectors)

    def _array(self, content: Any) -> np.ndarray:
        if isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
            return content
        raise UserError(
            f"this data set's {self.modality} is {type(content).__name__} and no vector; "
            f"choose another encoder/{self.modality}, or a data.layout with extracted features"
        )
