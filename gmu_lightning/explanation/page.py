"""The page of reasons: one HTML file with heat on the poster and colours in the plot, which loads no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from gmu_lightning.explanation.pieces import GRID
from gmu_lightning.explanation.reasons import Reasons
from gmu_lightning.report.page.movies import thumbnail
from gmu_lightning.report.page.write import TEMPLATE, policy
from gmu_lightning.visible import visible

OWN = Path(__file__).parent / "template"
POSTER_WIDTH = 300  # pixels
SMALLEST = 0.0005  # logits; smaller effects have no colour
STRONGEST = 12  # words in a genre's table
LABELLED = 3  # cells of a poster with their number


def card(reasons: Reasons | None, id: str, problem: str | None) -> dict[str, Any]:
    """Return the plain values from which the page draws a movie."""
    if reasons is None:
        return {"id": id, "problem": problem, "poster": None, "genres": []}
    genres = [_genre(reasons, genre) for genre in reasons.shown]
    return {"id": id, "problem": problem, "poster": _poster(reasons.content.get("image")), "genres": genres}


def _poster(content: Any) -> dict[str, Any] | None:
    """Return a small picture of a poster as `data`, with its `width` and `height`; None for another content."""
    if not isinstance(content, Path | bytes):
        return None
    data = thumbnail(content, POSTER_WIDTH)
    if data is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])), formats=["JPEG"]) as picture:
        return {"data": data, "width": picture.width, "height": picture.height}


def page(cards: Sequence[Mapping[str, Any]], rows: int, runs: Sequence[str]) -> str:
    """Return the text of the page.

    Args:
        cards: of the movies to show.
        rows: number of all movies.
        runs: folders of the runs.
    """
    css = "".join((folder / name).read_text(encoding="utf-8") for folder, name in ((TEMPLATE, "page.css"), (OWN, "why.css")))
    words = next((genre["words"]["baseline"] for one in cards for genre in one["genres"] if genre["words"]), None)
    return visible(_template().render(cards=cards, rows=rows, runs=runs, css=css, grid=GRID, baseline=words, policy=policy()))


def _genre(reasons: Reasons, genre: str) -> dict[str, Any]:
    """Return one genre of a card."""
    c = reasons.genres.index(genre)
    pieces = [] if reasons.pieces is None else [(p, float(p.effects[c])) for p in reasons.pieces]
    most = max([abs(effect) for _, effect in pieces], default=0.0)
    cells = {(p.where["row"], p.where["column"]): effect for p, effect in pieces if "row" in p.where}
    sentences = [(p.where["start"], p.where["end"], effect) for p, effect in pieces if p.modality == "text"]
    others = [
        {"place": reasons.place(p), **_mark(effect, most)}
        for p, effect in pieces
        if p.modality != "text" and "row" not in p.where
    ]
    words = _words(reasons, genre)
    text = str(reasons.content["text"]) if isinstance(reasons.content.get("text"), str) else None
    if words:
        spans, scale = words["spans"], words["most"]
    else:
        spans, scale = sentences, most
    return {
        "name": genre,
        "predicted": genre in reasons.predicted,
        "probability": float(reasons.probabilities[c]),
        "logit": float(reasons.logits[c]),
        "bias": float(reasons.bias[c]),
        "modalities": [
            {
                "name": m,
                "contribution": None if reasons.contributions is None else float(reasons.contributions[m][c]),
                "without": float(reasons.without[m][c]),
                "shapley": float(reasons.shapley[m][c]),
            }
            for m in reasons.without
        ],
        "most": most if pieces else scale,
        "cells": _cells(cells, most),
        "strongest": _strongest(cells),
        "unread": sum(not p.effects.any() for p, _ in pieces if "row" in p.where),
        "text": None if text is None else _segments(text, spans, scale),
        "others": others,
        "words": words and {"baseline": words["baseline"], "delta": words["delta"], "strongest": words["strongest"]},
    }


def _words(reasons: Reasons, genre: str) -> dict[str, Any] | None:
    found = reasons.words
    if found is None or genre not in found.effects:
        return None
    effects = found.effects[genre].tolist()
    most = max(map(abs, effects), default=0.0)
    spans = [(w.start, w.end, effect) for w, effect in zip(found.words, effects, strict=True) if w.start is not None]
    order = np.argsort(-np.abs(effects), kind="stable")[:STRONGEST].tolist()
    return {
        "baseline": found.baseline,
        "delta": None if found.delta is None else found.delta[genre],
        "most": most,
        "spans": spans,
        "strongest": [{"place": found.words[n].word, **_mark(effects[n], most)} for n in order],
    }


def _segments(text: str, spans: Sequence[tuple[int, int, float]], most: float) -> list[dict[str, Any]]:
    """Return a text as consecutive segments; those without an effect have the effect None."""
    found, last = [], 0
    for start, end, effect in spans:
        if start > last:
            found.append({"text": text[last:start], "effect": None})
        found.append({"text": text[max(last, start) : end], **_mark(effect, most)})
        last = end
    return [*found, {"text": text[last:], "effect": None}] if last < len(text) else found


def _cells(cells: Mapping[tuple[int, int], float], most: float) -> list[dict[str, Any]]:
    labelled = sorted(cells, key=lambda place: -abs(cells[place]))[:LABELLED]
    return [
        {"row": row, "column": column, "label": (row, column) in labelled, **_mark(effect, most)}
        for (row, column), effect in cells.items()
    ]


def _strongest(cells: Mapping[tuple[int, int], float]) -> list[str]:
    """Return the strongest cells of a poster in words."""
    places = sorted(cells, key=lambda place: -abs(cells[place]))[:LABELLED]
    return [f"row {row}, column {column}: {cells[row, column]:+.2f}" for row, column in places]


def _mark(effect: float, most: float) -> dict[str, Any]:
    """Return an effect, its sign as a CSS class, and its share of the strongest effect as the strength of its colour."""
    side = "" if abs(effect) < SMALLEST else "up" if effect > 0 else "down"
    return {"effect": effect, "side": side, "share": min(1.0, abs(effect) / most) if side and most else 0.0}


@cache
def _template() -> Any:
    environment = Environment(loader=FileSystemLoader(OWN), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("why.html.j2")
