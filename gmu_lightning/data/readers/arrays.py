"""Read untrusted files of arrays as data, and check shape and numbers as a layout requires."""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gmu_lightning.movie import BadContent

SUFFIXES = (".p", ".pkl", ".pickle", ".npy", ".pt")
NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"
LARGEST = 1 << 30  # bytes; a movie's array has a few million
FRAMES, FRAME, BANDS, CLIP_BANDS, CLIPS = 200, 4096, 96, 128, 4
# Admitted dtypes: booleans, numbers and strings, without Python objects or fields.
DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|[SU]\d{1,9})", re.ASCII)


def read_array(path: Path) -> np.ndarray:
    """Return the array in a file.

    Args:
        path: a pickle (`.p`, `.pkl` or `.pickle`), a `.npy`, or a `.pt` with a tensor. The first bytes of NumPy's and torch's
            formats take precedence over the suffix.

    Raises:
        BadContent: `refused_pickle` if the file holds objects that are no part of arrays. `bad_array` if it cannot be read, has
            more than `LARGEST` bytes, or holds something else than one array.
    """
    start, suffix = _bytes(path, 6), path.suffix.lower()
    if start.startswith(ZIP) or (suffix == ".pt" and start != NPY):
        array = _pt(_bytes(path))
    elif start == NPY or suffix == ".npy":
        array = _npy(path)
    else:
        array = unpickle(_bytes(path))
    if not isinstance(array, np.ndarray):
        raise BadContent("bad_array", f"holds {type(array).__name__}, expected an array")
    return array


def read_ids(path: Path) -> dict[str, int]:
    """Return {id: number of its row} from a pickled dictionary; ids become texts. Raises BadContent."""
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
    """Return an array of any shape with finite real numbers, as float32. Raises BadContent."""
    return _finite(read_array(path))


def frames(path: Path) -> np.ndarray:
    """Return features of frames, stored as (200, 4096) or (1, 200, 4096), as (200, 4096) float32. Raises BadContent."""
    return _reshaped(path, (FRAMES, FRAME))


def poster_vector(path: Path) -> np.ndarray:
    """Return a poster's features, stored as (4096,) or (1, 4096), as (4096,) float32. Raises BadContent."""
    return _reshaped(path, (FRAME,))


def log_mel(path: Path) -> np.ndarray:
    """Return a log-mel spectrogram, (96, T) float32 with T >= 1. Raises BadContent."""
    array = read_array(path)
    if array.ndim != 2 or array.shape[0] != BANDS or not array.size:
        raise _misshapen(array, f"({BANDS}, steps)")
    return _finite(array)


def melgram(path: Path) -> np.ndarray:
    """Return the first four clips of a log-mel spectrogram, joined in time. Raises BadContent.

    Args:
        path: of an array (1, n, 128, t) of n clips.

    Returns:
        (128, min(n, 4) * t) float32.
    """
    array = read_array(path)
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[2] != CLIP_BANDS or not array.size:
        raise _misshapen(array, f"(1, clips, {CLIP_BANDS}, steps)")
    clips = array[0, :CLIPS]  # (n, 128, t)
    return _finite(clips.swapaxes(0, 1).reshape(CLIP_BANDS, -1))


def _bytes(path: Path, most: int = -1) -> bytes:
    """Return the file's first `most` bytes, or all of them. Raises BadContent if it is too large, empty or unreadable."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadContent("bad_array", f"has {path.stat().st_size} bytes, and a movie's array has a few millions")
        with path.open("rb") as file:
            data = file.read(most)
    except OSError as unreadable:
        raise BadContent("bad_array", f"cannot be read: {unreadable.strerror}") from unreadable
    if not data:
        raise BadContent("bad_array", "is empty")
    return data


def _npy(path: Path) -> np.ndarray:
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # a memory map cannot exceed the file
    except Exception as broken:  # a damaged header may raise any exception
        if "Python objects" in str(broken):
            raise BadContent("refused_pickle", "it holds Python objects, which are no numbers") from broken
        raise BadContent("bad_array", f"no NumPy file: {str(broken)[:100]}") from broken


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
    except Exception as broken:  # a damaged file may raise any exception
        raise BadContent("bad_array", f"no tensor: {type(broken).__name__}: {str(broken)[:100]}") from broken


def _check_unpacked(data: bytes) -> None:
    """Refuse an archive that unpacks to more bytes than it has: torch writes uncompressed archives. Raises BadContent."""
    file = io.BytesIO(data)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > len(data):
            raise BadContent("bad_array", f"claims to hold {unpacked} bytes in {len(data)}")


def _reshaped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    array = read_array(path)
    if array.shape not in (shape, (1, *shape)):
        raise _misshapen(array, str(shape))
    return _finite(array.reshape(shape))


def _misshapen(array: np.ndarray, expected: str) -> BadContent:
    turned = "; it is transposed" if array.ndim == 2 and f"({array.shape[1]}, {array.shape[0]})" == expected else ""
    return BadContent("bad_array", f"shape {array.shape}, expected {expected}{turned}")


def _finite(array: np.ndarray) -> np.ndarray:
    """Return the array as float32. Raises BadContent if it has no numeric dtype or a number that is not finite."""
    if array.dtype.kind not in "fiu":
        raise BadContent("bad_array", f"holds {array.dtype}, expected numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=np.float32)
    broken = int((~np.isfinite(converted)).sum())
    if broken:
        raise BadContent("bad_array", f"{broken} of {converted.size} numbers are not finite")
    return converted


def unpickle(data: bytes) -> Any:
    """Return the content of a pickle: arrays, numbers, strings, and tuples, lists and dictionaries of them.

    Pickles are untrusted. A pickle is a program for a stack machine. This machine has no opcode that calls a function by the
    name in the file: the few names that pickles of arrays need stand for functions of this module, and other names are refused.

    Args:
        data: of any protocol, by Python 2 (its strings are read as latin-1) or 3, and NumPy 1 or 2.

    Raises:
        BadContent: `refused_pickle` if a name is not part of an array, `bad_array` if the pickle is damaged.
    """
    try:
        return _Arrays(data).load()
    except BadContent:
        raise
    except Exception as broken:  # a damaged program may raise any exception
        raise BadContent("bad_array", f"no pickle of an array: {type(broken).__name__}: {str(broken)[:100]}") from broken


def _reconstruct(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    if subtype is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise ValueError("an array that is built otherwise than NumPy does")
    return np.ndarray((0,), np.int8)


def _dtype(name: Any, align: Any = False, copy: Any = True) -> np.dtype:
    name = name.decode("latin1") if isinstance(name, bytes) else name
    if not isinstance(name, str):
        raise TypeError("a dtype without a name")
    if not DTYPE.fullmatch(name):
        raise BadContent("refused_pickle", f"it holds {name[:40]!r}, which are no numbers")
    return np.dtype(name, copy=True)  # its state is set later


def _scalar(dtype: Any, raw: Any) -> Any:
    return np.frombuffer(_sized(raw, (), dtype), dtype)[0]


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(_sized(buffer, shape, dtype), dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that are written otherwise than Python does")
    return text.encode("latin1")


def _sized(raw: Any, shape: Any, dtype: Any) -> bytes:
    """Return the bytes of an array. Raises ValueError unless their number fits shape and dtype."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes | bytearray):
        raise TypeError("an array without a dtype or without bytes")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a shape")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes for an array {shape} of {dtype}")
    return bytes(raw)


ADMITTED: dict[str, Any] = {"numpy.ndarray": np.ndarray, "numpy.dtype": _dtype, "_codecs.encode": _encode}
for _core in ("numpy.core", "numpy._core"):
    ADMITTED |= {f"{_core}.multiarray._reconstruct": _reconstruct, f"{_core}.multiarray.scalar": _scalar}
    ADMITTED |= {f"{_core}.numeric._frombuffer": _frombuffer}  # protocol 5
COPIES = 4  # largest number of copies of an array's bytes during reading; a normal pickle copies them twice
CALLED: tuple[Callable[..., Any], ...] = (_reconstruct, _dtype, _scalar, _frombuffer, _encode)
# Opcodes that make instances, sets or registered objects, or that read buffers outside the file.
REFUSED = (
    *(pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class _Arrays(pickle._Unpickler):  # the Python version, whose opcodes can be replaced
    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in REFUSED
    }

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.left = COPIES * len(data)

    def find_class(self, module: str, name: str) -> Any:
        """Return the object for a name. Raises BadContent for a name that is not part of an array."""
        full = f"{module}.{name}"
        if full not in ADMITTED:
            raise BadContent("refused_pickle", f"it names {full[:80]}, which is no array")
        return ADMITTED[full]

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is called for called in CALLED) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function")
        self._spend(arguments)
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, np.dtype):
            self._set_dtype(made, state)
        elif isinstance(made, np.ndarray):
            *_, shape, dtype, fortran, raw = state
            self._spend(state)
            made.__setstate__((1, shape, dtype, bool(fortran), _sized(raw, shape, dtype)))  # type: ignore[arg-type]
        else:
            raise TypeError("it sets the state of what has none")

    def _spend(self, given: tuple[Any, ...]) -> None:
        self.left -= sum(len(part) for part in given if isinstance(part, str | bytes | bytearray))
        if self.left < 0:
            raise ValueError("it makes more of its bytes than an array needs")

    @staticmethod
    def _set_dtype(made: np.dtype, state: Any) -> None:
        _, order, *parts = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise BadContent("refused_pickle", "it holds records, which are no numbers")
        sizes = (made.itemsize, made.alignment) if made.kind in "SU" else (-1, -1)
        made.__setstate__((3, order, None, None, None, *sizes, 0))  # type: ignore[attr-defined]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _fill(self.stack[-1], items)

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("latin1") for _ in range(2))
        self.find_class(module, name)
        raise ValueError("it makes an instance")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_fill({}, items))

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # read first, because the length may be wrong

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.INST[0]: load_inst,
        pickle.DICT[0]: load_dict,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _fill(into: Any, items: list[Any]) -> dict[Any, Any]:
    """Add items to a dictionary with keys that are numbers or strings; hashing nested tuples could take very long."""
    keys = items[::2]
    if not isinstance(into, dict) or not all(isinstance(key, int | float | str | bytes | np.generic) for key in keys):
        raise TypeError("a dictionary whose keys are no numbers or strings")
    into.update(zip(keys, items[1::2], strict=True))
    return into
