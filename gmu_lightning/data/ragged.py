"""Store arrays of different shapes in one file, one per movie. Prepared rows and token features have this format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

VALUES = "values.bin"


@dataclass(frozen=True)
class Ragged:
    """Arrays of one dtype, in memory or memory-mapped.

    Attributes:
        values: (numbers,), all arrays flattened, one after the other.
        bounds: (N, 2) int, where each movie's numbers begin and end in `values`.
        shapes: (N, axes) int, zeros where a movie has no array.
        present: (N,) bool, whether a movie has an array.
    """

    values: np.ndarray
    bounds: np.ndarray
    shapes: np.ndarray
    present: np.ndarray

    @classmethod
    def read(cls, folder: Path, dtype: str, movies: int) -> Ragged:
        """Return the arrays that a `RaggedWriter` left in a folder.

        Args:
            folder: holds values.bin and index.npz.
            dtype: name of the arrays' dtype.
            movies: N.

        Raises:
            ValueError: the files do not fit each other, or not `movies`.
        """
        with np.load(folder / "index.npz", allow_pickle=False) as index:
            offsets, shapes, present = (index[name] for name in ("offsets", "shapes", "present"))
        empty = not (folder / VALUES).stat().st_size
        values = np.zeros(0, dtype) if empty else np.memmap(folder / VALUES, dtype, mode="r")
        sizes, starts = shapes.prod(axis=1), offsets[: len(shapes)]
        if not len(starts) == len(shapes) == len(present) == movies or sizes.sum() != len(values):
            raise ValueError(
                f"index.npz describes {sizes.sum()} numbers of {len(present)} movies, and not {len(values)} of {movies}"
            )
        return cls(values, np.stack([starts, starts + sizes], axis=1), shapes, present)

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray | None]) -> Ragged:
        """Return arrays of one dtype and number of axes in memory, None where a movie has no array."""
        there = [array for array in arrays if array is not None]
        shapes = np.zeros((len(arrays), there[0].ndim if there else 1), dtype=np.int64)
        present = np.array([array is not None for array in arrays], dtype=bool)
        if there:
            shapes[present] = [array.shape for array in there]
        values = np.concatenate([array.ravel() for array in there]) if there else np.zeros(0, np.float32)
        sizes = shapes.prod(axis=1)
        ends = sizes.cumsum()
        return cls(values, np.stack([ends - sizes, ends], axis=1), shapes, present)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int, the size of each array's first axis; 0 where absent."""
        return self.shapes[:, 0]

    def row(self, n: int) -> np.ndarray:
        """Return the array of movie n, which must have one."""
        start, end = self.bounds[n]
        return self.values[start:end].reshape(self.shapes[n])

    def without(self, movies: np.ndarray) -> Ragged:
        """Return the arrays as if some movies had none; `movies` is (N,) bool."""
        bounds, shapes = (np.where(movies[:, None], 0, numbers) for numbers in (self.bounds, self.shapes))
        return Ragged(self.values, bounds, shapes, self.present & ~movies)

    def padded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return sequences (T_n, d) as one batch.

        Args:
            rows: B row numbers.

        Returns:
            (B, T, d) float32, padded with zeros to the longest sequence; and (B, T) bool, True for real tokens. A movie without
            a sequence has no real token. T is at least 1.
        """
        longest = max(1, int(self.lengths[list(rows)].max(initial=0)))
        batch = np.zeros((len(rows), longest, self.shapes[:, 1].max(initial=0)), dtype=np.float32)
        mask = np.zeros((len(rows), longest), dtype=bool)
        for i, n in enumerate(rows):
            length = self.lengths[n]
            if length:
                batch[i, :length], mask[i, :length] = self.row(n), True
        return torch.from_numpy(batch), torch.from_numpy(mask)


class RaggedWriter:
    """Context manager that writes the arrays of N movies, in any order, to values.bin and index.npz.

    Both files are on the disk when the context ends.

    Args:
        folder: receives the files.
        movies: N.

    Attributes:
        dtype: name of the arrays' dtype; "" until one is written, and `float32` if none was when the context ends.
    """

    def __init__(self, folder: Path, movies: int):
        self.folder, self.dtype = folder, ""
        self._offsets, self._shapes = np.zeros(movies, dtype=np.int64), [()] * movies
        self._written = 0

    def __enter__(self) -> Self:
        self._file = (self.folder / VALUES).open("wb")
        return self

    def write(self, n: int, array: np.ndarray) -> None:
        """Write the array of movie n. Raises TypeError if its dtype differs from that of earlier arrays."""
        if self.dtype not in ("", array.dtype.name):
            raise TypeError(f"a preparation stored rows of {self.dtype} and of {array.dtype}: all have to be of one dtype")
        self.dtype = array.dtype.name
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._offsets[n], self._shapes[n] = self._written, array.shape
        self._written += array.size

    def __exit__(self, *_: Any) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        axes = max((len(shape) for shape in self._shapes), default=1) or 1
        shapes = np.array([shape or (0,) * axes for shape in self._shapes], dtype=np.int64).reshape(len(self._shapes), axes)
        present = np.array([shape != () for shape in self._shapes], dtype=bool)
        np.savez(self.folder / "index.npz", offsets=self._offsets, shapes=shapes, present=present)
        self.dtype = self.dtype or "float32"


def write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Write an array as `numpy.save` does. On a full disk, the error has the system's number, which numpy leaves out."""
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)
