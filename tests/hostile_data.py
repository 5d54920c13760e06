"""Hostile pictures, clips, tables and exports; see `hostile_files`."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.encoders.clips import write as write_clip

from .hostile_files import CANARY, Calls, Case


def png(chunks: dict[bytes, bytes], size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a PNG with further chunks before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * (1 + 3 * 8) * 8)
    more = b"".join(chunk(kind, data) for kind, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def scans(count: int) -> bytes:
    """Return a progressive JPEG whose scans are repeated."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


SAYS = {"terapixel": "more than 500 million", "bomb": "colour profile or text has more than", "scans": "scans, more than 200"}


def pictures() -> Iterator[Case]:
    postscript = b"%%!PS-Adobe-3.0 EPSF-3.0\n%%%%BoundingBox: 0 0 9 9\n%%%%EndComments\n(%s) (w) file closefile showpage\n"
    written = {
        "PostScript": lambda path: postscript % str(path.parent / CANARY).encode(),
        "SVG": lambda path: b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "PDF": lambda path: b"%PDF-1.4\n1 0 obj\n<< /OpenAction << /S /Launch >> >>\nendobj\n",
        "page": lambda path: b"<!DOCTYPE html><script>1</script>",
        "PNG of a terapixel": lambda path: png({}, (2**20, 2**20)),
        "PNG with a text bomb": lambda path: png({b"zTXt": b"x\0\0" + zlib.compress(b"\0" * 70_000_000)}),
        "PNG with a profile bomb": lambda path: png({b"iCCP": b"x\0\0" + zlib.compress(b"\0" * 70_000_000)}),
        "JPEG of thousands of scans": lambda path: scans(2000),
        "TIFF of a terapixel": lambda path: tiff(2**20, 2**20),
        "bitmap of a terapixel": lambda path: (
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 2**20, 2**20, 1, 24, 0, 0, 0, 0, 0, 0)
        ),
    }
    for name, make in written.items():
        says = next((word for key, word in SAYS.items() if key in name), "no image in one of the formats")
        yield Case(name, "picture", "poster.jpg", lambda path, make=make: path.write_bytes(make(path)), says)


def tiff(width: int, height: int) -> bytes:
    """Return the header of a TIFF."""
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 200),
        (279, 4, 1, 9),
    ]
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + listed + b"\0" * 4).ljust(300, b"\0")


def clips() -> Iterator[Case]:
    written = {
        "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "list of files": "ffconcat version 1.0\nfile secret.ts\n",
        "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "manifest": "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period><BaseURL>secret.ts</BaseURL></Period></MPD>",
        "script": "#!/bin/sh\ntouch canary\n",
    }

    def beside_a_secret(text: str) -> Callable[[Path], Any]:
        def write(path: Path) -> None:
            write_clip(path.with_name("secret.ts"), seconds=1.0, size=(16, 16))
            path.write_text(text)

        return write

    for name, text in written.items():
        for reads in ("clip", "sound"):
            yield Case(
                f"{reads} {name}", reads, "1.m3u8" if name == "playlist" else "1.mp4", beside_a_secret(text), "cannot be opened"
            )


NOT_REGULAR = "it is no regular file"


def tables() -> Iterator[Case]:
    def bomb(path: Path) -> None:
        pq.write_table(pa.table({name: pa.nulls(20_000, pa.int8()) for name in map(str, range(80))}), path)

    yield Case("Parquet bomb", "table", "movies.parquet", bomb, "unpacks to more than")
    yield Case("pipe named as a table", "table", "movies.csv", os.mkfifo, NOT_REGULAR)
    yield Case("device named as a table", "table", "movies.csv", lambda path: path.symlink_to("/dev/zero"), NOT_REGULAR)
    yield Case("huge table", "table", "movies.csv", lambda path: _sparse(path, 80 * 10**9), "it has more than")

    def split(write: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def make(path: Path) -> None:
            (path / "dataset").mkdir(parents=True)
            write(path)

        return make

    ids = json.dumps({"train": ["1"], "dev": ["2"], "test": ["3"]})
    yield Case(
        "split file that never ends",
        "movies",
        "raw",
        split(lambda path: (path / "split.json").symlink_to("/dev/zero")),
        NOT_REGULAR,
    )
    yield Case("split file that is a pipe", "movies", "raw", split(lambda path: os.mkfifo(path / "split.json")), NOT_REGULAR)

    def piped(path: Path) -> None:
        (path / "split.json").write_text(ids)
        os.mkfifo(path / "dataset/1.json")

    yield Case("record that is a pipe", "movies", "raw", split(piped), NOT_REGULAR)

    def endless(path: Path) -> None:
        (path / "split.json").write_text(ids)
        (path / "dataset/1.json").symlink_to("/dev/zero")

    yield Case("record that never ends", "movies", "raw", split(endless), NOT_REGULAR)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def hdf5() -> Iterator[Case]:
    """HDF5 files whose parts are bytes of other files, or huge."""

    def made(change: Callable[[h5py.File, Path], Any]) -> Callable[[Path], Any]:
        def write(path: Path) -> None:
            with h5py.File(path, "w") as file:
                file["features"], file["vgg_features"] = np.zeros((3, 4), np.float32), np.zeros((3, 5), np.float32)
                file["genres"] = np.ones((3, 1), np.int32)
                file["genres"].attrs["target_names"] = '["Drama"]'
                file["imdb_ids"] = np.array([b"1", b"2", b"3"])
                change(file, path)

        return write

    def replaced(file: h5py.File, name: str, **options: Any) -> None:
        del file[name]
        file.create_dataset(name, **options)

    def external(file: h5py.File, path: Path) -> None:
        (path.parent / "secret").write_bytes(b"secret" * 100)
        replaced(file, "features", shape=(3, 4), dtype="f4", external=[(str(path.parent / "secret"), 0, 48)])

    def linked(file: h5py.File, path: Path) -> None:
        with h5py.File(path.parent / "secret.h5", "w") as other:
            other["x"] = np.zeros((3, 4), np.float32)
        del file["features"]
        file["features"] = h5py.ExternalLink(str(path.parent / "secret.h5"), "x")

    def virtual(file: h5py.File, path: Path) -> None:
        layout = h5py.VirtualLayout((3, 4), "f4")
        layout[:] = h5py.VirtualSource(str(path.parent / "secret.h5"), "x", (3, 4))
        del file["features"]
        file.create_virtual_dataset("features", layout)

    yield Case("HDF5 of another file's bytes", "hdf5", "m.hdf5", made(external), "its features is the content of another file")
    yield Case("HDF5 that links to another file", "hdf5", "m.hdf5", made(linked), "lacks features")
    yield Case("HDF5 that shows another file", "hdf5", "m.hdf5", made(virtual), "its features is the content of another file")
    wide = {"shape": (3, 10**9), "dtype": "f4", "chunks": (1, 1000)}
    yield Case(
        "HDF5 of wide rows",
        "hdf5",
        "m.hdf5",
        made(lambda file, _: replaced(file, "features", **wide)),
        "impossible for a data set",
    )
    yield Case(
        "HDF5 of words",
        "hdf5",
        "m.hdf5",
        made(lambda file, _: replaced(file, "features", data=np.array([[b"x"]] * 3))),
        "expected numbers",
    )


def exports() -> Iterator[Case]:
    def holding(name: str, content: bytes) -> Callable[[Path], Any]:
        def write(path: Path) -> None:
            (path / name).parent.mkdir(parents=True)
            (path / "config.json").write_text("{}")
            (path / name).write_bytes(content)

        return write

    for suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib", ".npy", ".py", ".PKL"):
        content = pickle.dumps(Calls(os.system, "true"))
        yield Case(f"export with a {suffix}", "export", "model", holding(f"encoders/text/x{suffix}", content), "can run code")
    for name, settings in {
        "kernel": {"model_type": "bert", "attn_implementation": "someone/kernel"},
        "kernels": {"model_type": "bert", "use_kernels": True},
    }.items():
        yield Case(
            f"network with a {name}",
            "network",
            "bert",
            holding("config.json", json.dumps(settings).encode()),
            "by which a network loads code",
        )
    pickled = {
        "architecture": "resnet18",
        "model_args": {"checkpoint_path": "evil.pth"},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    yield Case(
        "picture network with a checkpoint",
        "timm",
        "resnet",
        holding("config.json", json.dumps(pickled).encode()),
        "loads other files",
    )


CASES = [case for group in (pictures, clips, tables, hdf5, exports) for case in group()]
