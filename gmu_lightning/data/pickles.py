"""Pickles from strangers, read as data: arrays, numbers, strings, and tuples, lists and dictionaries of them.

A pickle is a program for a stack machine. This one has no opcode left that calls what a file names: the few names that
arrays are pickled by stand for functions of our own, and any other name ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from gmu_lightning.movie import BadContent

# Booleans, numbers and strings: what a dtype may be without Python objects or fields in it.
DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|[SU]\d{1,9})", re.ASCII)


def unpickle(data: bytes) -> Any:
    """What was pickled, by any protocol, by Python 2 (its strings as latin-1) or 3, NumPy 1 or 2.

    Raises:
        BadContent: `refused_pickle` where a name is no array's, `bad_array` where the pickle is damaged.
    """
    try:
        return _Arrays(data).load()
    except BadContent:
        raise
    except Exception as broken:  # damaged programs fail in every way there is
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
    return np.dtype(name, copy=True)  # a copy, for its state is set later


def _scalar(dtype: Any, raw: Any) -> Any:
    return np.frombuffer(_sized(raw, (), dtype), dtype)[0]


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(_sized(buffer, shape, dtype), dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that are written otherwise than Python does")
    return text.encode("latin1")


def _sized(raw: Any, shape: Any, dtype: Any) -> bytes:
    """The bytes of an array. ValueError unless there are as many as shape and dtype claim."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes | bytearray):
        raise TypeError("an array without a dtype or without bytes")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a shape")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes for an array {shape} of {dtype}")
    return bytes(raw)


def _names() -> dict[str, Any]:
    names: dict[str, Any] = {"numpy.ndarray": np.ndarray, "numpy.dtype": _dtype, "_codecs.encode": _encode}
    for core in ("numpy.core", "numpy._core"):
        names |= {f"{core}.multiarray._reconstruct": _reconstruct, f"{core}.multiarray.scalar": _scalar}
        names |= {f"{core}.numeric._frombuffer": _frombuffer}  # protocol 5
    return names


ADMITTED = _names()
COPIES = 4  # how often an array's bytes may be copied on their way: an honest pickle copies them twice
CALLED: tuple[Callable[..., Any], ...] = (_reconstruct, _dtype, _scalar, _frombuffer, _encode)
# Opcodes that make instances, sets or what a registry names, or that read buffers from elsewhere.
REFUSED = (
    *(pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class _Arrays(pickle._Unpickler):  # in Python, not C: every opcode is ours to replace
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
        """What a name stands for. Raises BadContent for a name that is no array's."""
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
        self.append(bytearray(self.read(length)))  # read first: the length may be a lie

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
    """Keys are numbers and strings alone: to hash tuples within tuples takes as long as a stranger likes."""
    keys = items[::2]
    if not isinstance(into, dict) or not all(isinstance(key, int | float | str | bytes | np.generic) for key in keys):
        raise TypeError("a dictionary whose keys are no numbers or strings")
    into.update(zip(keys, items[1::2], strict=True))
    return into
