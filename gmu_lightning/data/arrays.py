"""Arrays in files of their own, from strangers: read as data, and checked for what their layout says of them."""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.pickles import unpickle
from gmu_lightning.movie import BadContent

PICKLES = (".p", ".pkl", ".pickle")
SUFFIXES = (*PICKLES, ".npy", ".pt")
LARGEST = 1 << 30  # bytes; a movie's array has a few millions
FRAMES, FRAME, BANDS, CLIP_BANDS, CLIPS = 200, 4096, 96, 128, 4


def read_array(path: Path) -> np.ndarray:
    """The array in a `.p`, `.pkl` or `.pickle` (any protocol), a `.npy`, or a `.pt` (a tensor).

    NumPy's and torch's own formats are known by their first bytes, whatever the suffix.

    Raises:
        BadContent: `refused_pickle` where it holds more than an array, `bad_array` where it cannot be read.
    """
    data = _bytes(path)
    array = _reader(data, path.suffix.lower())(data)
    if not isinstance(array, np.ndarray):
        raise BadContent("bad_array", f"holds {type(array).__name__}, expected an array")
    return array


def read_ids(path: Path) -> dict[str, int]:
    """{id: row} from a pickle. Raises BadContent."""
    found = unpickle(_bytes(path))
    if not isinstance(found, dict):
        raise BadContent("bad_array", f"holds {type(found).__name__}, expected a dictionary of id and row")
    rows: dict[str, int] = {}
    for key, row in found.items():
        name = key.decode("latin1") if isinstance(key, bytes) else str(key)
        if isinstance(row, bool) or not isinstance(row, int | np.integer):
            raise BadContent("bad_array", f"id {name[:40]} has {type(row).__name__}, expected the number of a row")
        if name in rows:
            raise BadContent("bad_array", f"id {name[:40]} stands twice, as text and as a number")
        rows[name] = int(row)
    return rows


def numbers(path: Path) -> np.ndarray:
    """Whatever array of finite numbers, float32. Raises BadContent."""
    return _finite(read_array(path))


def frames(path: Path) -> np.ndarray:
    """Features of frames, (1, 200, 4096) or (200, 4096), as float32 (200, 4096). Raises BadContent."""
    array = read_array(path)
    if array.shape not in ((FRAMES, FRAME), (1, FRAMES, FRAME)):
        raise _misshapen(array, f"({FRAMES}, {FRAME})")
    return _finite(array.reshape(FRAMES, FRAME))


def poster_vector(path: Path) -> np.ndarray:
    """A poster's features, (1, 4096) or (4096,), as float32 (4096,). Raises BadContent."""
    array = read_array(path)
    if array.shape not in ((FRAME,), (1, FRAME)):
        raise _misshapen(array, f"({FRAME},)")
    return _finite(array.reshape(FRAME))


def log_mel(path: Path) -> np.ndarray:
    """A log-mel spectrogram, float32 (96, T), T >= 1. Raises BadContent."""
    array = read_array(path)
    if array.ndim != 2 or array.shape[0] != BANDS or not array.size:
        raise _misshapen(array, f"({BANDS}, steps)")
    return _finite(array)


def melgram(path: Path) -> np.ndarray:
    """Clips of a log-mel spectrogram, (1, n, 128, t), the first four joined in time: float32 (128, min(n, 4) t).

    Raises BadContent.
    """
    array = read_array(path)
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[2] != CLIP_BANDS or not array.size:
        raise _misshapen(array, f"(1, clips, {CLIP_BANDS}, steps)")
    clips = array[0, :CLIPS]  # (n, 128, t)
    return _finite(clips.swapaxes(0, 1).reshape(CLIP_BANDS, -1))


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise BadContent("bad_array", f"has {path.stat().st_size} bytes, and a movie's array has a few millions")
        data = path.read_bytes()
    except OSError as unreadable:
        raise BadContent("bad_array", f"cannot be read: {unreadable.strerror}") from unreadable
    if not data:
        raise BadContent("bad_array", "is empty")
    return data


def _npy(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(file)
        if not dtype.hasobject:  # from the bytes that are there: NumPy's own reader makes room for what the header claims
            return np.frombuffer(data, dtype, math.prod(shape), file.tell()).reshape(shape, order="F" if fortran else "C")
    except Exception as broken:  # a damaged header fails as Python source does
        raise BadContent("bad_array", f"no NumPy file: {str(broken)[:100]}") from broken
    raise BadContent("refused_pickle", "it holds Python objects, which are no numbers")


def _pt(data: bytes) -> Any:
    import torch

    try:
        _check_unpacked(data)
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(tensor, torch.Tensor):
            return tensor
        tensor = tensor.detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except BadContent:
        raise
    except pickle.UnpicklingError as refused:
        named = re.search(r"GLOBAL (\S+)", str(refused))
        if named:
            raise BadContent("refused_pickle", f"it names {named[1][:80]}, which is no tensor") from refused
        raise BadContent("bad_array", "no tensor: its pickle is damaged") from refused
    except Exception as broken:  # damaged files fail in every way there is
        raise BadContent("bad_array", f"no tensor: {type(broken).__name__}: {str(broken)[:100]}") from broken


def _check_unpacked(data: bytes) -> None:
    """torch writes its archives uncompressed, so one that unpacks to more than it is was made to fill the memory."""
    file = io.BytesIO(data)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > len(data):
            raise BadContent("bad_array", f"claims to hold {unpacked} bytes in {len(data)}")


def _reader(data: bytes, suffix: str) -> Callable[[bytes], Any]:
    if data.startswith(b"\x93NUMPY"):
        return _npy
    return _pt if data.startswith(b"PK\x03\x04") else _READERS[suffix]


_READERS: dict[str, Callable[[bytes], Any]] = {**dict.fromkeys(PICKLES, unpickle), ".npy": _npy, ".pt": _pt}


def _misshapen(array: np.ndarray, expected: str) -> BadContent:
    turned = "; it is transposed" if array.ndim == 2 and f"({array.shape[1]}, {array.shape[0]})" == expected else ""
    return BadContent("bad_array", f"shape {array.shape}, expected {expected}{turned}")


def _finite(array: np.ndarray) -> np.ndarray:
    """In float32. Raises BadContent where it holds no numbers, or one that is not finite."""
    if array.dtype.kind not in "fiu":
        raise BadContent("bad_array", f"holds {array.dtype}, expected numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=np.float32)
    broken = int((~np.isfinite(converted)).sum())
    if broken:
        raise BadContent("bad_array", f"{broken} of {converted.size} numbers are not finite")
    return converted
