"""Write a small Moviescope in both layouts, whose contents reveal the genres, and damage its files."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gmu_lightning.data.moviescope import Moviescope

GENRES = ("Comedy", "Drama", "Horror", "Romance")
SPLITS = ("train", "dev", "test")
FOLDERS = {
    "full": {"video": "200F_VGG16", "image": "PosterFeatures", "audio": "Melspectrogram"},
    "teaching": {"video": "video_frames", "audio": "spectrograms"},
}
FIRST_ID = 3015
WIDTH = 312


def write(
    folder: Path,
    layout: str = "full",
    movies: tuple[int, int, int] = (4, 2, 2),
    rng: np.random.Generator | None = None,
    suffix: str | None = None,
) -> Path:
    """Write a data set with so many movies in train, dev and test. Every content shows its movie's genres.

    Args:
        suffix: of array files: `.p` (as Python 2 writes it), `.npy` or `.pt`; None for the layout's own.
    """
    rng = rng or np.random.default_rng(0)
    suffix = suffix or {"full": ".p", "teaching": ".pt"}[layout]
    ids = iter(range(FIRST_ID, FIRST_ID + sum(movies)))
    for name in FOLDERS[layout].values():
        (folder / name).mkdir(parents=True)
    if layout == "full":
        for name in ("Raw_Poster", "MelgramPorcessed", "Metadata_matrices"):
            (folder / name).mkdir()
    for split, number in zip(SPLITS, movies, strict=True):
        records, rows = [], []
        for n in range(number):
            id, genres = next(ids), _genres(n, rng)
            records.append({"id": id, "synopsis": f"Movie {id} is {' and '.join(genres)}.", "label": genres})
            contents = arrays(genres, rng)
            rows.append(contents["metadata"])
            for modality, name in FOLDERS[layout].items():
                save(folder / name / f"{id}{suffix}", contents[modality])
            if layout == "full":
                save(folder / "MelgramPorcessed" / f"{id}{suffix}", contents["melgram"])
                shade = 60 * GENRES.index(genres[0])
                Image.new("RGB", (8, 12), (shade, id % 255, 0)).save(folder / "Raw_Poster" / f"{id}.jpg")
        write_lines(folder / f"{split}.jsonl", records)
        if layout == "full":
            name = {"dev": "val"}.get(split, split)
            np.save(folder / "Metadata_matrices" / f"{name}_metadata.npy", np.array(rows))
            rows_of = {str(record["id"]): n for n, record in enumerate(records)}
            (folder / "Metadata_matrices" / f"{name}_ids.pickle").write_bytes(python2_ids(rows_of))
    return folder


def arrays(genres: list[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a movie's arrays: metadata in float32, others in float16."""
    shown = np.isin(GENRES, genres).astype(np.float16)
    steps = int(rng.integers(30, 50))

    def wide(width: int) -> np.ndarray:
        return np.resize(shown, width) + rng.normal(0, 0.1, width).astype(np.float16)

    return {
        "video": (rng.random((1, 200, 1)).astype(np.float16) + np.float16(0.5)) * wide(4096),
        "image": wide(4096)[None],
        "audio": wide(96)[:, None] + rng.normal(0, 0.1, (96, steps)).astype(np.float16),
        "melgram": wide(128)[None, None, :, None] + np.zeros((1, 5, 128, 6), np.float16),
        "metadata": wide(WIDTH).astype(np.float64),
    }


def save(path: Path, content: Any) -> None:
    """Write an array in the format of the suffix, or pickle another object."""
    if path.suffix == ".pt":
        torch.save(torch.from_numpy(content) if isinstance(content, np.ndarray) else content, path)
    elif path.suffix == ".npy":
        array = content if isinstance(content, np.ndarray) else np.array([content, None], dtype=object)
        np.save(path, array, allow_pickle=True)
    else:
        path.write_bytes(python2_pickle(content) if isinstance(content, np.ndarray) else pickle.dumps(content))


def python2_pickle(array: np.ndarray) -> bytes:
    """Return an array as Python 2's cPickle writes it by protocol 2, with strings as bytes."""
    little = array.astype(array.dtype.newbyteorder("<"))
    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
    name = array.dtype.str[1:].encode()
    dtype = (
        b"cnumpy\ndtype\nU"
        + bytes([len(name)])
        + name
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = little.tobytes()
    made = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
    return made + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb."


def python2_ids(rows: dict[str, int]) -> bytes:
    """Return {id: row} as Python 2's cPickle writes it by protocol 2."""
    items = (b"U" + bytes([len(id)]) + id.encode() + b"J" + struct.pack("<i", row) for id, row in rows.items())
    return b"\x80\x02}q\x01(" + b"".join(items) + b"u."


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a line of JSON per record."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


class MakesAMarker:
    """Creates a folder when an unsafe reader unpickles it."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def marker(folder: Path) -> Path:
    """Return the folder that an unsafe reader creates."""
    return folder / "MARKER"


def damage(folder: Path, share: float, rng: np.random.Generator) -> dict[tuple[str, str], str]:
    """Damage a share of the files in each folder of arrays, of the plots and of the rows of metadata.

    Returns:
        {(id, modality): expected kind of problem in the audit}
    """
    layout = "full" if (folder / "200F_VGG16").exists() else "teaching"
    done: dict[tuple[str, str], str] = {}
    for modality, name in FOLDERS[layout].items():
        files = sorted((folder / name).iterdir())
        chosen = rng.permutation(len(files))[: max(1, round(share * len(files)))]
        for n, at in enumerate(chosen.tolist()):
            kind = _harm(files[at], list(HARMS)[n % len(HARMS)], marker(folder))
            done[files[at].stem, modality] = f"missing_{modality}" if kind == "missing" else kind
    done |= _damage_plots(folder, share, rng)
    if layout == "full":
        done |= _damage_metadata(folder / "Metadata_matrices", share, rng)
    return done


HARMS = {
    "truncate": "bad_array",
    "empty": "bad_array",
    "misshape": "bad_array",
    "nan": "bad_array",
    "attack": "refused_pickle",
    "remove": "missing",
}


def _harm(path: Path, harm: str, marker: Path) -> str:
    whole = path.read_bytes()
    if harm == "truncate":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "misshape":
        save(path, np.zeros((7, 5), np.float32))
    elif harm == "nan":
        shape = {"200F_VGG16": (200, 4096), "video_frames": (200, 4096), "PosterFeatures": (4096,)}.get(path.parent.name, (96, 9))
        save(path, np.full(shape, np.nan, np.float16))
    elif harm == "attack":
        save(path, MakesAMarker(marker))
    else:
        path.unlink()
    return HARMS[harm]


def _damage_plots(folder: Path, share: float, rng: np.random.Generator) -> dict[tuple[str, str], str]:
    done = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for n in rng.permutation(len(records))[: round(share * len(records))]:
            records[n]["synopsis"] = " "
            done[str(records[n]["id"]), "text"] = "missing_plot"
        write_lines(path, records)
    return done


def _damage_metadata(folder: Path, share: float, rng: np.random.Generator) -> dict[tuple[str, str], str]:
    done = {}
    for split in ("train", "val", "test"):
        matrix = np.load(folder / f"{split}_metadata.npy")
        path = folder / f"{split}_ids.pickle"
        rows = pickle.loads(path.read_bytes())
        for n, id in enumerate(rng.permutation(sorted(rows))[: round(share * len(rows))].tolist()):
            done[id, "metadata"] = "missing_metadata" if n % 3 == 2 else "bad_array"
            if n % 3 == 0:
                matrix[rows[id], 5] = np.nan
            elif n % 3 == 1:
                rows[id] = len(matrix)
            else:
                del rows[id]
        np.save(folder / f"{split}_metadata.npy", matrix)
        path.write_bytes(python2_ids(rows))
    return done


def _genres(n: int, rng: np.random.Generator) -> list[str]:
    """Return one or two genres. The first movies of a split have each genre once."""
    first = GENRES[n % len(GENRES)]
    second = GENRES[rng.integers(len(GENRES))]
    return [first] if second == first or rng.random() < 0.5 else [first, second]


def opened(folder: Path, **arguments: Any) -> Moviescope:
    """Return the data set in a folder, not loaded yet."""
    return Moviescope(str(folder), **arguments)
