"""Judge the reasons of predictions: planted pieces, deletion curves against a random order, and seconds per movie.

python benchmarks/explanations.py RUN [--planted RUN] [--movies N] [--level pieces|words] [--orders N]

RUN is a finished run on real plots and posters, whose data can be read. The intervals are bootstraps over movies (95 %).
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import gmu_lightning
from benchmarks.harness import table
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.data.planted.content import COLOURS, SINGLE_GENRES, STORIES
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.posters import mean_colour
from gmu_lightning.experiment import build
from gmu_lightning.explanation.explain import LEVELS, Explainer, Level
from gmu_lightning.explanation.pieces import GRID
from gmu_lightning.explanation.reasons import Effect, Reasons
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.run import Run

SHARES = np.arange(0.1, 1.0, 0.1)  # of deleted pieces
NEAR = 60  # distance of a pixel's colour from that of a disc
MOST_OF_A_DISC = 0.08  # smallest share of a disc's pixels in a cell of it
DRAWS = 10_000
TIMED = 10  # movies


def movies_of(run: Run, count: int) -> tuple[list[InputRow], Any]:
    """Return the first test movies of a run that have every modality, and the table of its data."""
    config = RunConfig.of(run.config)
    data = build.load_table(config, Store(config.store.dir), fitted=True)
    rows = [InputRow(data.movies[n].id, data.movies[n].content, None, "") for n in data.rows("test")]
    return [row for row in rows if set(config.modalities) <= set(row.content)][:count], data


def explained(classifier: Classifier, rows: Sequence[InputRow], why: Level) -> list[Reasons]:
    """Return the reasons of movies."""
    explain = Explainer(classifier, why, len(rows))
    results = classifier.results([[row] for row in rows], len(rows), classifier.form(), explain)
    return [reasons for found in results for reasons in found.reasons if reasons is not None]


def interval(values: Sequence[float]) -> str:
    """Return the mean of one value per movie, and its interval over movies."""
    numbers, rng = np.asarray(values, dtype=float), np.random.default_rng(0)
    means = numbers[rng.integers(len(numbers), size=(DRAWS, len(numbers)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{numbers.mean():.3f} [{low:.3f}, {high:.3f}]"


def planted_shares(run: Run, count: int) -> dict[str, list[float]]:
    """Return {modality: for each movie the share of its genres whose planted piece has the largest effect}.

    The genres are those that the modality alone tells and that the movie truly has. All pieces of the modality compete.
    """
    classifier = gmu_lightning.load(run)
    rows, data = movies_of(run, count)
    genres = {movie.id: movie.genres for movie in data.movies}
    found: dict[str, list[float]] = {"text": [], "image": []}
    for reasons in explained(classifier, rows, "pieces"):
        for modality, shares in found.items():
            own = [genre for genre in SINGLE_GENRES[modality] if genre in genres[reasons.id]]
            if own:
                shares.append(float(np.mean([first_is_planted(reasons, modality, genre) for genre in own])))
    return found


def first_is_planted(reasons: Reasons, modality: str, genre: str) -> bool:
    """Return whether the piece with the largest effect on a genre shows the genre."""
    c = reasons.genres.index(genre)
    first = max((piece for piece in reasons.pieces or () if piece.modality == modality), key=lambda piece: piece.effects[c])
    if modality == "text":
        return any(deed in reasons.place(first) for deed in STORIES[genre][1])
    with Image.open(reasons.content["image"]) as poster:
        pixels = np.asarray(poster.convert("RGB"), dtype=float)
    disc = np.linalg.norm(pixels - COLOURS[genre], axis=-1) < NEAR
    top, bottom = (round(n * len(disc) / GRID) for n in (first.where["row"] - 1, first.where["row"]))
    left, right = (round(n * disc.shape[1] / GRID) for n in (first.where["column"] - 1, first.where["column"]))
    return bool(disc[top:bottom, left:right].sum() > MOST_OF_A_DISC * disc.sum())


class Deletion(NamedTuple):
    """A movie whose pieces can be deleted.

    Attributes:
        row: the movie.
        genre: index of the genre that is explained.
        effects: (P,) of its pieces on the genre.
        edited: returns the row without some of the pieces.
    """

    row: InputRow
    genre: int
    effects: np.ndarray
    edited: Callable[[Sequence[int]], InputRow]


def deletion(row: InputRow, reasons: Reasons) -> Deletion:
    """Return the pieces or words of a movie, for its most probable genre."""
    genre = reasons.shown[0]
    c = reasons.genres.index(genre)
    if reasons.words is not None:
        places = [(word.start, word.end) for word in reasons.words.words]
        return Deletion(row, c, reasons.words.effects[genre], lambda gone: edited(row, [places[n] for n in gone], []))
    pieces = list(reasons.pieces or ())
    effects = np.array([piece.effects[c] for piece in pieces])
    return Deletion(row, c, effects, lambda gone: without(row, [pieces[n] for n in gone]))


def without(row: InputRow, gone: Sequence[Effect]) -> InputRow:
    """Return a movie without some pieces of its plot and poster."""
    spans = [(piece.where["start"], piece.where["end"]) for piece in gone if piece.modality == "text"]
    return edited(row, spans, [(p.where["row"], p.where["column"]) for p in gone if p.modality == "image"])


def edited(row: InputRow, spans: Sequence[tuple[Any, Any]], cells: Sequence[tuple[int, int]]) -> InputRow:
    """Return a movie without some parts of its plot, and with some cells of its poster covered."""
    content = dict(row.content)
    text = content["text"]
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    content["text"] = text
    if not text.strip():
        del content["text"]
    if cells:
        content["image"] = covered(content["image"], cells)
    return InputRow(row.id, content, None, "")


def covered(poster: Path, cells: Sequence[tuple[int, int]]) -> bytes:
    """Return a poster as a PNG with some cells in its mean colour."""
    with Image.open(poster) as image:
        picture = image.convert("RGB")
    colour, (width, height) = mean_colour(picture), picture.size
    for row, column in cells:
        edges = ((column - 1, width), (row - 1, height), (column, width), (row, height))
        picture.paste(colour, tuple(round(n * size / GRID) for n, size in edges))  # type: ignore[arg-type]
    kept = io.BytesIO()
    picture.save(kept, "PNG", compress_level=1)
    return kept.getvalue()


def curves(classifier: Classifier, movies: Sequence[Deletion], orders: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the fall of the logit after each share of deletions: in the order of the effects, and in random orders, (N, S)."""
    rng = np.random.default_rng(0)
    ours, random = [], []
    empty = Explainer(classifier, "modalities", 1).empty
    for movie in movies:
        count = len(movie.effects)
        ranked = [np.argsort(-movie.effects, kind="stable"), *(rng.permutation(count) for _ in range(orders))]
        rows = [movie.row] + [movie.edited(order[: round(share * count)].tolist()) for order in ranked for share in SHARES]
        (found,) = classifier.results([rows], len(rows), classifier.form())
        logits = np.where(np.isfinite(found.logits), found.logits, empty)[:, movie.genre]
        falls = (logits[0] - logits[1:]).reshape(orders + 1, -1)
        ours.append(falls[0])
        random.append(falls[1:].mean(axis=0))
    return np.array(ours), np.array(random)


def deletion_rows(classifier: Classifier, rows: Sequence[InputRow], level: Level, orders: int) -> list[dict[str, Any]]:
    """Return the rows of a table of the deletion curves of a level."""
    movies = [deletion(row, reasons) for row, reasons in zip(rows, explained(classifier, rows, level), strict=True)]
    ours, random = curves(classifier, movies, orders)
    points = [(f"{share:.0%} deleted", ours[:, n], random[:, n]) for n, share in enumerate(SHARES)]
    points.append(("area (mean over the shares)", ours.mean(axis=1), random.mean(axis=1)))
    return [
        {
            "level": level,
            "fall of the logit": name,
            "by effect": interval(a),
            "random": interval(b),
            "difference": interval(a - b),
        }
        for name, a, b in points
    ]


def seconds(classifier: Classifier, rows: Sequence[InputRow]) -> list[dict[str, Any]]:
    """Return the seconds per movie of each level, after a first movie, at which libraries are loaded."""
    found = []
    for level in LEVELS:
        explained(classifier, rows[:1], level)
        begin = time.perf_counter()
        reasons = explained(classifier, rows, level)
        each = (time.perf_counter() - begin) / len(rows)
        parts = np.mean([len(one.pieces or ()) or len(one.words.words if one.words else ()) for one in reasons])
        found.append({"why": level, "seconds per movie": f"{each:.3f}", "pieces or words": f"{parts:.0f}"})
    return found


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", nargs="?", help="folder of a run on real plots and posters")
    options.add_argument("--planted", help="folder of a run on generated movies")
    options.add_argument("--movies", type=int, default=50)
    options.add_argument("--level", choices=("pieces", "words"), help="both by default")
    options.add_argument("--orders", type=int, default=3, help="random orders for each movie")
    given = options.parse_args()
    if given.planted:
        shares = planted_shares(Run(Path(given.planted)), given.movies)
        rows = [{"modality": m, "movies": len(found), "planted piece first": interval(found)} for m, found in shares.items()]
        print(table(rows), flush=True)
    if given.run:
        classifier = gmu_lightning.load(given.run)
        movies, _ = movies_of(classifier.runs[0].run, given.movies)
        print(table(seconds(classifier, movies[:TIMED])), flush=True)
        for level in [given.level] if given.level else ("pieces", "words"):
            print(table(deletion_rows(classifier, movies, level, given.orders)), flush=True)


if __name__ == "__main__":
    main()
