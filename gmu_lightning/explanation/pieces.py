"""Cut one movie's content in one modality into pieces, and prepare the content without each piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning import cells
from gmu_lightning.data.contents import stored
from gmu_lightning.data.readers.strings import shows
from gmu_lightning.encoders.metadata import TablePreparation
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.temporal import StepPreparation
from gmu_lightning.explanation.sentences import sentences
from gmu_lightning.movie import BadContent
from gmu_lightning.prediction.trained import Source

GRID = 7  # rows and columns of cells on a poster
SPANS = 200  # most pieces of a sequence whose steps have no known time
ROUNDING = 1e-6  # of a step


class Piece(NamedTuple):
    """A content without one of its pieces.

    Attributes:
        where: the place of the piece, as in the file of reasons.
        arrays: {key of a preparation: the array that it stores without the piece}; None if the rest is absent or unusable.
    """

    where: dict[str, Any]
    arrays: dict[str, np.ndarray | None]


def pieces(content: Any, sources: Sequence[Source], arrays: Mapping[str, np.ndarray]) -> Iterator[Piece]:
    """Yield the pieces of a content, one at a time; none for a kind of content that has no pieces, such as a vector.

    Args:
        content: the raw content of a movie in one modality.
        sources: ways in which runs read the modality, one for each preparation.
        arrays: {key of a preparation: the array that it stores for the whole content}.
    """
    preparations: list[Any] = [source.preparation for source in sources]
    if isinstance(content, str):
        yield from _sentences(content, sources)
    elif all(isinstance(preparation, PosterPreparation) for preparation in preparations):
        yield from _cells(content, sources)
    elif all(isinstance(preparation, StepPreparation) for preparation in preparations):
        yield from _steps(sources, arrays)
    elif isinstance(content, Mapping) and all(isinstance(preparation, TablePreparation) for preparation in preparations):
        yield from _columns(content, sources)


def _sentences(text: str, sources: Sequence[Source]) -> Iterator[Piece]:
    for start, end in sentences(text):
        rest = text[:start] + text[end:]
        yield Piece({"start": start, "end": end}, prepared(rest if shows(rest) else None, sources))


def _cells(content: Any, sources: Sequence[Source]) -> Iterator[Piece]:
    covered = [source.preparation.covered(content, GRID) for source in sources]  # type: ignore[attr-defined]
    for n, arrays in enumerate(zip(*covered, strict=True)):
        where = {"row": n // GRID + 1, "column": n % GRID + 1}
        yield Piece(where, {source.stored: array for source, array in zip(sources, arrays, strict=True)})


def _columns(row: Mapping[str, Any], sources: Sequence[Source]) -> Iterator[Piece]:
    known = {str(name) for source in sources for name in _learned(source)}
    filled = [name for name, value in row.items() if cells.read(value) is not None]
    for name in filled:
        if str(name) in known:
            rest = {other: row[other] for other in filled if other != name}
            yield Piece({"column": str(name)}, prepared(rest or None, sources))


def _learned(source: Source) -> tuple[str, ...]:
    """Return the columns that a preparation of a table has learned; none if it reads arrays."""
    learned: Any = source.preparation.learned  # type: ignore[attr-defined]
    return (*getattr(learned, "medians", ()), *getattr(learned, "words", ()))


def prepared(content: Any, sources: Sequence[Source]) -> dict[str, np.ndarray | None]:
    """Return {key of a preparation: the array that it stores for a content}; None if it is absent or cannot be used."""
    found = {s.stored: None if content is None else stored(s.preparation, s.modality, content) for s in sources}
    return {key: None if isinstance(array, BadContent) else array for key, array in found.items()}


def _steps(sources: Sequence[Source], arrays: Mapping[str, np.ndarray]) -> Iterator[Piece]:
    """Yield each second of a sequence, or each of its steps if their time is unknown.

    A piece lasts longer than a second if a step of a preparation does, as the window of a sound transformer.
    """
    rates: dict[str, Any] = {source.stored: source.preparation.per_second for source in sources}  # type: ignore[attr-defined]
    if any(rate is None for rate in rates.values()):
        longest = max(len(arrays[key]) for key in rates)
        bounds = np.linspace(0, longest, min(longest, SPANS) + 1).round().astype(int).tolist()
        for start, end in pairwise(bounds):
            kept = {key: _without(arrays[key], start, end) for key in rates}
            yield Piece({"from_step": start, "to_step": end}, kept)
        return
    unit = max(1.0, *(1 / rate for rate in rates.values()))
    seconds = max(len(arrays[key]) / rate for key, rate in rates.items())
    for n in range(math.ceil(seconds / unit - ROUNDING)):
        start, end = n * unit, (n + 1) * unit
        step = partial(_step_at, start, end)
        yield Piece({"from": start, "to": end}, {key: _without(arrays[key], *step(rate)) for key, rate in rates.items()})


def _step_at(start: float, end: float, rate: float) -> tuple[int, int]:
    """Return the first step that begins at or after each of two times in seconds."""
    return math.ceil(start * rate - ROUNDING), math.ceil(end * rate - ROUNDING)


def _without(array: np.ndarray, start: int, end: int) -> np.ndarray | None:
    """Return the steps of an array outside [start, end), or None if there are none."""
    kept = np.delete(array, slice(start, end), axis=0)
    return kept if len(kept) else None
