"""Arrays of different shapes in one file, a row per movie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.movie import BadContent


def write_ragged(folder: Path, rows: Iterable[np.ndarray | BadContent | None]) -> dict[str, Any]:
    """values.bin, all rows one after the other, and index.npz, where each begins and its shape; what meta.json says of them.

    Raises:
        TypeError: two rows are of different dtypes.
    """
    bad: list[tuple[int, str, str]] = []
    sizes: list[int] = []
    shapes: list[tuple[int, ...]] = []
    dtype = None
    with (folder / "values.bin").open("wb") as file:
        for n, row in enumerate(rows):
            if isinstance(row, BadContent):
                bad.append((n, row.kind, row.detail))
            if isinstance(row, np.ndarray):
                if dtype not in (None, row.dtype):
                    raise TypeError(f"a preparation stored rows of {dtype} and of {row.dtype}: all have to be of one dtype")
                dtype = row.dtype
                file.write(np.ascontiguousarray(row).tobytes())
                sizes.append(row.size)
                shapes.append(row.shape)
            else:
                sizes.append(0)
                shapes.append(())
        file.flush()
        os.fsync(file.fileno())
    present = np.array([shape != () for shape in shapes], dtype=bool)
    axes = max((len(shape) for shape in shapes), default=1) or 1
    filled = np.array([shape or (0,) * axes for shape in shapes], dtype=np.int64).reshape(len(shapes), axes)
    np.savez(
        folder / "index.npz", offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), shapes=filled, present=present
    )
    return {"dtype": np.dtype(dtype or np.float32).name, "bad": bad}
