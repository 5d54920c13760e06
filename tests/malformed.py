"""Malformed files as compact seeds: each is made from a small sound file by a named change, the same bytes each time."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pandas as pd
import torch
from PIL import Image

from tests.encoders import clips

HEAD = 2048  # bytes
CUTS = (0, 0.02, 0.3, 0.6, 0.9, 1)  # shares of a file that stay; 1 leaves out the last byte
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    1e308,
    "",
    "\x00",
    "x" * 5000,
    "\ud800",
    [],
    {},
    [[]],
    {"a": None},
    "../../etc/passwd",
)
ENCODINGS = ("utf-16", "utf-16-be", "utf-32-le", "cp037", "utf-7")
RAW_JSON = (
    b"",
    b"{",
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b"NaN",
    b'{"a": 1e999}',
    b"9" * 5000,
    b"\xff\xfe{}",
    b"\0" * 64,
    b"[1]",
    b"7",
    b"{'a': 1}",
)


def changed(data: bytes, name: str, flips: int = 6) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of damaged copies: cut, with flipped bits, overwritten, repeated or rearranged."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for share in CUTS:
        yield f"{name} cut {share}", data[: int(share * len(data)) if share < 1 else -1]
    for n in range(flips):
        edge = min(len(data), HEAD if n % 2 else len(data))  # every second flip is in the head
        found, place = bytearray(data), int(rng.integers(edge))
        found[place] ^= 1 << int(rng.integers(8))
        yield f"{name} flip {n}", bytes(found)
    for n, fill in enumerate((0, 255)):
        found, place = bytearray(data), int(rng.integers(len(data)))
        found[place : place + 32] = bytes([fill]) * 32
        yield f"{name} fill {n}", bytes(found[: len(data)])
    half = len(data) // 2
    yield f"{name} twice", data + data
    yield f"{name} headless", data[16:]
    yield f"{name} turned", data[half:] + data[:half]


def odd_values(found: Any, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of a JSON object in which one value after the other is odd, and of texts that are no JSON."""
    for n, place in enumerate(_places(found)):
        copy = json.loads(json.dumps(found))
        node = copy
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = ODD[n % len(ODD)]
        yield f"{name} {'/'.join(map(str, place))}", json.dumps(copy).encode()
    for n, text in enumerate(RAW_JSON):
        yield f"{name} text {n}", text
    for encoding in ENCODINGS:
        yield f"{name} {encoding}", json.dumps(found).encode(encoding)


def _places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of values in a JSON object, at most two of each list."""
    parts = node.items() if isinstance(node, dict) else list(enumerate(node))[:2] if isinstance(node, list) else ()
    for key, value in parts:
        yield (*place, key)
        yield from _places(value, (*place, key))


def picture(kind: str) -> bytes:
    """Return a picture of 24 x 36 pixels in a format of Pillow."""
    pixels = np.random.default_rng(0).integers(0, 255, (36, 24, 3), dtype=np.uint8)
    options: dict[str, Any] = {"progressive": True} if kind == "JPEG" else {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def array(suffix: str) -> bytes:
    """Return a file of an array of 4 x 3 numbers."""
    numbers, file = np.arange(12, dtype=np.float32).reshape(4, 3), io.BytesIO()
    if suffix == ".npy":
        np.save(file, numbers)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(numbers), file)
    else:
        return numbers.dumps()
    return file.getvalue()


def clip(folder: Path, suffix: str) -> bytes:
    """Return a clip of half a second, or its sound alone for `.wav` and `.ogg`."""
    path = folder / f"sound{suffix}"
    if suffix not in (".wav", ".ogg"):
        return clips.write(path, seconds=0.5, size=(16, 16)).read_bytes()
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le" if suffix == ".wav" else "flac", rate=12_000, layout="mono")
        for start in range(0, 6000, 1000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 1000), 1000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 12_000, start, Fraction(1, 12_000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path.read_bytes()


def parquet() -> bytes:
    """Return a table of 30 movies."""
    rows = [{"id": f"m{n}", "plot": f"Plot {n}", "genres": ["Drama", "War"][: 1 + n % 2], "year": 1950 + n} for n in range(30)]
    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file)
    return file.getvalue()


def hdf5(folder: Path) -> bytes:
    """Return the HDF5 layout of MM-IMDb with ten movies and short vectors."""
    path, rows = folder / "sound.hdf5", np.arange(10)
    with h5py.File(path, "w") as file:
        file["features"] = np.repeat(rows[:, None], 30, axis=1).astype(np.float32)
        file.create_dataset(
            "vgg_features", data=np.repeat(rows[:, None], 40, axis=1).astype(np.float32), chunks=(5, 40), compression=4
        )
        file["genres"] = (rows[:, None] >> np.arange(3) & 1).astype(np.int32)
        file["genres"].attrs["target_names"] = json.dumps(["Drama", "Comedy", "War"])
        file["imdb_ids"] = np.array([f"{n:07d}" for n in rows], dtype="S7")
    return path.read_bytes()
