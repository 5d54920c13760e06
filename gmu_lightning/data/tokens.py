"""Sequences of numbers in one file, so many tokens per movie, in float32 or float16."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.movie import UserError


def rounded(values: np.ndarray, precision: str, whose: str) -> np.ndarray:
    """Values in the precision they are kept in, `float32` or `float16`.

    Args:
        whose: says in an error where they come from.

    Raises:
        UserError: float16 cannot hold one of them.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if precision == "float16" and largest > float(np.finfo(precision).max):
        raise UserError(
            f"store.precision={precision} ends at {np.finfo(precision).max:g}, and {whose} reaches {largest:.3g}: "
            "give store.precision=float32"
        )
    return values.astype(precision, copy=False)


@dataclass(frozen=True)
class Sequences:
    """The tokens of every movie, memory-mapped: movie n has rows starts[n] to starts[n] + lengths[n] of `tokens`."""

    tokens: np.ndarray  # (all tokens, d) float32 or float16
    starts: np.ndarray  # (N,)
    lengths: np.ndarray  # (N,), 0 where absent

    @classmethod
    def read(cls, folder: Path, dim: int, precision: str) -> Sequences:
        """Those that a `SequenceWriter` left in a folder."""
        index = np.load(folder / "tokens.npz")
        shape = (int(index["lengths"].sum()), dim)
        tokens = np.memmap(folder / "tokens.bin", precision, mode="r", shape=shape) if shape[0] else np.zeros(shape, precision)
        return cls(tokens, index["starts"], index["lengths"])

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, T, d) float32, padded with zeros to the longest of those movies, and (B, T) bool."""
        longest = max(1, int(self.lengths[list(rows)].max(initial=0)))
        padded = np.zeros((len(rows), longest, self.tokens.shape[1]), dtype=np.float32)
        mask = np.zeros((len(rows), longest), dtype=bool)
        for i, n in enumerate(rows):
            length = self.lengths[n]
            padded[i, :length] = self.tokens[self.starts[n] : self.starts[n] + length]
            mask[i, :length] = True
        return torch.from_numpy(padded), torch.from_numpy(mask)


class SequenceWriter:
    """Writes tokens.bin and tokens.npz of N movies, in any order; a context, at whose end both are on the disk.

    Args:
        precision: `float32` or `float16`.
        whose: says in an error where the numbers come from.
    """

    def __init__(self, folder: Path, movies: int, precision: str, whose: str):
        self.folder, self.precision, self.whose = folder, precision, whose
        self.starts, self.lengths = (np.zeros(movies, dtype=np.int64) for _ in range(2))
        self.tokens = 0

    def __enter__(self) -> SequenceWriter:
        self._file = (self.folder / "tokens.bin").open("wb")
        return self

    def write(self, n: int, tokens: np.ndarray) -> None:
        """The tokens of movie n, (T, d) float32, no padding among them. Raises UserError where float16 cannot hold them."""
        self._file.write(np.ascontiguousarray(rounded(tokens, self.precision, self.whose)).tobytes())
        self.starts[n], self.lengths[n] = self.tokens, len(tokens)
        self.tokens += len(tokens)

    def __exit__(self, *_: Any) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        np.savez(self.folder / "tokens.npz", starts=self.starts, lengths=self.lengths)
