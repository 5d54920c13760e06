"""The page's movie browser: a sample of the test movies, and the movies most driven by one modality."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.decisions import decided
from gmu_lightning.movie import BadContent
from gmu_lightning.pictures import decoded_picture
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.gates import Truth, driven
from gmu_lightning.report.page.splits import on_one_split
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.run import Predictions

SAMPLE = 36  # movies of the browser; fewer for many settings
SHOWN = 720  # most predictions (movies x settings), for pages below five megabytes
FIRST_LETTERS = 1200  # of a plot
WIDTH = 110  # pixels of a poster's picture
QUALITY = 72  # of its JPEG
KINDS = {(True, True): "right", (True, False): "missed", (False, True): "wrong"}  # of (true, predicted)
TITLES = {"right": "predicted, and true", "missed": "true, and not predicted", "wrong": "predicted, and not true"}


@dataclass(frozen=True)
class ExampleMovie:
    """A plot and a poster; None if absent."""

    plot: str | None = None
    poster: str | None = None  # a data: address of a small JPEG


@dataclass(frozen=True)
class ExampleMovies:
    """Content of the data set for the page."""

    movies: Mapping[str, ExampleMovie] = field(default_factory=dict)
    truth: Truth | None = None


def thumbnail(poster: Path | bytes, width: int = WIDTH) -> str | None:
    """Return a small JPEG of a poster as a `data:` address; None for an unreadable poster, which the audit lists.

    Args:
        poster: a file, or its content.
        width: in pixels; a smaller poster keeps its size.
    """
    kept = io.BytesIO()
    try:
        with decoded_picture(poster, (2 * width, 4 * width)) as small:
            small.thumbnail((width, 2 * width))
            small.save(kept, "JPEG", quality=QUALITY, optimize=True)
    except (BadContent, OSError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(kept.getvalue()).decode()}"


def chosen_movies(comparison: Comparison) -> list[str]:
    """Return the test movies of the page: a sample with a fixed seed, and the movies most driven by one modality."""
    settings = on_one_split(comparison)
    ids, (_, drives) = settings[0].test[0].ids, _driven(settings)
    return list(dict.fromkeys([*sample(ids, len(settings)), *(ids[n] for rows in drives.values() for n in rows)]))


def sample(ids: Sequence[str], settings: int) -> list[str]:
    """Return at most `SAMPLE` of the split's movies in their order, drawn with seed 0."""
    rows = np.random.default_rng(0).permutation(len(ids))[: min(SAMPLE, max(1, SHOWN // settings))]
    return [ids[n] for n in sorted(rows)]


def _driven(settings: Sequence[ScoredSetting]) -> tuple[str, dict[str, list[int]]]:
    """Return the best setting with exact contributions, and its driven movies."""
    return next(((one.name, rows) for one in settings if (rows := driven(one.test))), ("", {}))


class _Predicted(NamedTuple):
    """A setting's predictions for every test movie, as means over its seeds."""

    name: str
    modalities: tuple[str, ...]
    probabilities: np.ndarray  # (N, C)
    decisions: np.ndarray  # (N, C) bool, of the mean probabilities
    parts: np.ndarray | None  # (N, M, C) contributions; None unless exact and of several modalities

    @classmethod
    def of(cls, one: ScoredSetting) -> _Predicted:
        modalities = one.test[0].modalities
        exact = [p.contributions for p in one.test if p.contributions is not None]
        parts = np.mean(exact, axis=0) if len(exact) == len(one.test) and len(modalities) > 1 else None
        probabilities = np.mean([p.probabilities for p in one.test], axis=0)
        return cls(one.name, modalities, probabilities, decided(probabilities, one.task), parts)


def browser(comparison: Comparison, examples: ExampleMovies) -> dict[str, list[dict[str, Any]]]:
    """Return `cards` of the sample, and `driven`, groups of cards per driving modality. Unreadable movies are left out."""
    if not examples.movies:
        return {"cards": [], "driven": []}
    settings = on_one_split(comparison)
    first = settings[0].test[0]
    predicted = [_Predicted.of(one) for one in settings]
    row = {movie: n for n, movie in enumerate(first.ids)}

    def cards(movies: Iterable[str]) -> list[dict[str, Any]]:
        return [_card(first, row[movie], predicted, examples.movies[movie]) for movie in movies if movie in examples.movies]

    by, drives = _driven(settings)
    groups = [
        {"title": f"Most driven by {modality}, for {by}", "cards": cards(first.ids[n] for n in rows)}
        for modality, rows in drives.items()
    ]
    return {"cards": cards(sample(first.ids, len(predicted))), "driven": [group for group in groups if group["cards"]]}


def _card(first: Predictions, n: int, predicted: Sequence[_Predicted], content: ExampleMovie) -> dict[str, Any]:
    plot = content.plot
    if plot and len(plot) > FIRST_LETTERS:
        plot = plot[:FIRST_LETTERS] + " …"
    labels = first.labels[n]
    return {
        "id": first.ids[n],
        "genres": [genre for genre, has in zip(first.genres, labels, strict=True) if has],
        "plot": plot,
        "poster": content.poster,
        "rows": [{"name": one.name, "genres": _genres(one, n, first.genres, labels)} for one in predicted],
    }


def _genres(one: _Predicted, n: int, genres: Sequence[str], labels: np.ndarray) -> list[dict[str, Any]]:
    """Return the true and the predicted genres of a movie."""
    found = []
    for c, genre in enumerate(genres):
        probability = float(one.probabilities[n, c])
        kind = KINDS.get((bool(labels[c]), bool(one.decisions[n, c])))
        if kind is not None:
            words = [] if one.parts is None else [f"{m} {one.parts[n, k, c]:+.1f}" for k, m in enumerate(one.modalities)]
            found.append(
                {"name": genre, "kind": kind, "title": TITLES[kind], "probability": probability, "parts": ", ".join(words)}
            )
    return found
