"""The movie browser of a page: a sample of the test movies, and those that one modality drives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.evidence import Evidence
from gmu_lightning.report.gate_evidence import driven
from gmu_lightning.report.page.shown import Shown, ShownMovie
from gmu_lightning.run import Predictions

SAMPLE = 36  # movies of the browser, fewer where many settings are shown for each
SHOWN = 720  # what settings said of them, at most: a page of sixty settings stays below five megabytes
DRIVEN = 3  # most driven movies of each modality
FIRST_LETTERS = 1200  # of a plot
KINDS = {(True, True): "right", (True, False): "missed", (False, True): "wrong"}  # of (true, predicted)
TITLES = {"right": "predicted, and true", "missed": "true, and not predicted", "wrong": "predicted, and not true"}


def chosen_movies(comparison: Comparison) -> list[str]:
    """The test movies that a page shows: a sample drawn with a fixed seed, and those that one modality drives."""
    ids = comparison.alike[0].test[0].ids
    return list(
        dict.fromkeys([*sample(ids, len(comparison.alike)), *(ids[n] for rows in _driven(comparison).values() for n in rows)])
    )


def sample(ids: Sequence[str], settings: int) -> list[str]:
    """At most `SAMPLE` of the split's movies, in its order, drawn with seed 0."""
    rows = np.random.default_rng(0).permutation(len(ids))[: min(SAMPLE, max(1, SHOWN // settings))]
    return [ids[n] for n in sorted(rows)]


def _driven(comparison: Comparison) -> dict[str, list[int]]:
    """Of the best setting that can say it."""
    found = (driven(one.test, DRIVEN) for one in comparison.alike)
    return next((rows for rows in found if rows), {})


class _Said(NamedTuple):
    """What a setting said of every test movie, means over its seeds."""

    name: str
    modalities: tuple[str, ...]
    probabilities: np.ndarray  # (N, C)
    parts: np.ndarray | None  # (N, M, C) contributions; None where they are not exact, or of a single modality

    @classmethod
    def of(cls, one: Evidence) -> _Said:
        modalities = one.test[0].modalities
        exact = [p.contributions for p in one.test if p.contributions is not None]
        known = len(exact) == len(one.test) and len(modalities) > 1
        return cls(
            one.name,
            modalities,
            np.mean([p.probabilities for p in one.test], axis=0),
            np.mean(exact, axis=0) if known else None,
        )


class Browser(NamedTuple):
    """Cards of the sample, and groups of cards of what one modality drives."""

    cards: list[dict[str, Any]]
    driven: list[dict[str, Any]]


def browser(comparison: Comparison, shown: Shown) -> Browser:
    """Of the movies that could be read; empty where none could."""
    if not shown.movies:
        return Browser([], [])
    first = comparison.settings[0].test[0]
    spoken = [_Said.of(one) for one in comparison.alike]
    row = {movie: n for n, movie in enumerate(first.ids)}

    def cards(movies: Iterable[str]) -> list[dict[str, Any]]:
        return [_card(first, row[movie], spoken, shown.movies[movie]) for movie in movies if movie in shown.movies]

    by = next((one.name for one in comparison.alike if driven(one.test, 1)), "")
    groups = [
        {"title": f"Most driven by {modality}, for {by}", "cards": cards(first.ids[n] for n in rows)}
        for modality, rows in _driven(comparison).items()
    ]
    return Browser(cards(sample(first.ids, len(spoken))), [group for group in groups if group["cards"]])


def _card(first: Predictions, n: int, spoken: Sequence[_Said], content: ShownMovie) -> dict[str, Any]:
    plot = content.plot
    if plot and len(plot) > FIRST_LETTERS:
        plot = plot[:FIRST_LETTERS] + " …"
    labels = first.labels[n]
    return {
        "id": first.ids[n],
        "genres": [genre for genre, has in zip(first.genres, labels, strict=True) if has],
        "plot": plot,
        "poster": content.poster,
        "rows": [{"name": said.name, "genres": _genres(said, n, first.genres, labels)} for said in spoken],
    }


def _genres(said: _Said, n: int, genres: Sequence[str], labels: np.ndarray) -> list[dict[str, Any]]:
    """Those that the movie has, and those that were predicted."""
    found = []
    for c, genre in enumerate(genres):
        probability = float(said.probabilities[n, c])
        kind = KINDS.get((bool(labels[c]), probability >= 0.5))
        if kind is not None:
            words = [] if said.parts is None else [f"{m} {said.parts[n, k, c]:+.1f}" for k, m in enumerate(said.modalities)]
            found.append(
                {"name": genre, "kind": kind, "title": TITLES[kind], "probability": probability, "parts": ", ".join(words)}
            )
    return found
