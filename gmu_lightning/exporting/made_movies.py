"""Make the three movies of probe.json. Their contents are invented, with words of the vocabulary and columns of the table."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gmu_lightning.encoders.metadata import Table, TablePreparation
from gmu_lightning.encoders.temporal import SequencePreparation
from gmu_lightning.encoders.vector import ArrayPreparation
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.trained import Source, TrainedRun

MOVIES = 3
TEXTS = (
    "A boy, a dog and the sea: in 1994 they cross it, and nobody's map is right. \"Where's the harbour?\" he asks.",
    "The Detective's last case -- Café Müller, São Paulo, 3:15 a.m. -- begins with 12,000 letters; it ends in a duel at noon!",
    "Two sisters inherit a circus. One tames lions, the other counts the money, and both fall in love with the knife thrower.",
)
WORDS = 20  # of a learned vocabulary, in each text
LONG = 1024  # words of the third text, so that it is longer than most encoders read
WIDTH, HEIGHT = 90, 128  # of a poster, in pixels
SECONDS, SIDE = 3, 64  # of a clip; its edges in pixels
FRAMES, RATE = 8, 16_000  # frames and samples of sound per second
STEPS = 5  # of a sequence of features


def made_movies(run: TrainedRun, folder: Path) -> list[dict[str, Any]]:
    """Return three movies, {modality: raw content}, as a run reads them. The third lacks the first of several modalities.

    Args:
        run: decides the kinds of contents.
        folder: receives clips.

    Raises:
        UserError: a preparation of the user's own reads contents that are unknown here.
    """
    movies = whole_movies(run, folder)
    if len(run.modalities) > 1:
        del movies[-1][run.modalities[0]]
    return movies


def whole_movies(run: TrainedRun, folder: Path) -> list[dict[str, Any]]:
    """Return the movies of `made_movies` with all their modalities. Arguments and errors are the same."""
    return [{m: _content(run.sources[m], n, folder) for m in run.modalities} for n in range(MOVIES)]


def _content(source: Source, n: int, folder: Path) -> Any:
    preparation = source.preparation
    known = preparation.learned if isinstance(preparation, TablePreparation) else preparation
    if isinstance(known, Table):
        return _row(known, n)
    if isinstance(known, ArrayPreparation):
        return _array(known, n)
    if source.modality == "text":
        return _text(preparation, n)
    if source.modality == "image":
        return poster(n)
    if source.modality in ("video", "audio"):
        return clip(folder / f"{n}.mkv", n)
    raise UserError(
        f"encoder.{source.modality} reads contents that no probe can be made of ({type(preparation).__name__}): "
        "export a run with a preparation of this package"
    )


def _text(preparation: Any, n: int) -> str:
    """Return a made-up text that ends in words of a learned vocabulary. The third text is long."""
    learned = list(islice(getattr(preparation, "known", ()), n * WORDS, (n + 1) * WORDS))
    text = " ".join([TEXTS[n], *learned])
    return " ".join([text] * (LONG // len(text.split()) + 1)) if n == MOVIES - 1 else text


def poster(n: int) -> bytes:
    """Return a made-up poster as PNG: waves of colours, and a fine pattern in which resizing shows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [127 + 100 * np.sin((x * (c + 1) + y * (n + 1)) / (9 + 4 * c) + n) for c in range(3)]
    fine = ((x * 7 + y * 13 + n * 5) % 11)[..., None]
    pixels = (np.stack(waves, axis=-1) + 2 * fine).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _array(preparation: ArrayPreparation, n: int) -> np.ndarray:
    size = preparation.size
    shape = (size,) if preparation.axes == 1 else (STEPS + n, size)
    values = np.sin(np.arange(np.prod(shape), dtype=np.float64) * 0.7 + n).reshape(shape).astype(np.float32)
    turned = isinstance(preparation, SequencePreparation) and preparation.modality == "audio"
    return np.ascontiguousarray(values.T) if turned else values


def _row(table: Table, n: int) -> dict[str, Any]:
    """Return a made-up row: numbers near the medians, and the n-th frequent word of each column. The second lacks some cells."""
    row: dict[str, Any] = {name: median * (1 + 0.1 * n) + n for name, median in table.medians.items()}
    row |= {name: list(words)[n % len(words)] for name, words in table.words.items() if words}
    return {name: cell for i, (name, cell) in enumerate(row.items()) if n != 1 or len(row) == 1 or i % 3 != 2}


def clip(path: Path, n: int) -> Path:
    """Write a made-up clip with moving colours and a tone, and return its path. Its bytes are the same in every call."""
    import av

    options = {"fflags": "+bitexact"}
    with av.open(str(path), "w", format="matroska", container_options=options) as file:
        picture = file.add_stream("mpeg4", rate=FRAMES, options={"flags": "+bitexact", "threads": "1"})
        picture.width = picture.height = SIDE
        picture.pix_fmt = "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        y, x = np.mgrid[:SIDE, :SIDE]
        for t in range(SECONDS * FRAMES):
            shade = [127 + 100 * np.sin((x + (c + 1) * y) / 8 + t / 3 + n) for c in range(3)]
            frame = av.VideoFrame.from_ndarray(np.stack(shade, axis=-1).astype(np.uint8), format="rgb24")
            file.mux(picture.encode(frame))
        file.mux(picture.encode())
        seconds = np.arange(SECONDS * RATE) / RATE
        tone = (12_000 * np.sin(2 * np.pi * (220 + 110 * n) * seconds)).astype(np.int16)
        samples = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        samples.sample_rate = RATE
        file.mux(sound.encode(samples))
        file.mux(sound.encode())
    return path
