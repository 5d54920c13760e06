"""What a page says of gates: the published figure, and beside it what that hides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.report.evidence import Evidence
from gmu_lightning.report.faithfulness import Faithfulness
from gmu_lightning.report.gate_evidence import GateTable, Recovered, Truth, decomposition_error, gate_table, recovered
from gmu_lightning.report.page import svg
from gmu_lightning.run import Predictions

STILL = 1e-6  # a standard deviation that is rounding
DRAWN = 20  # settings, the best ones: each takes four figures of every genre


def gate_section(settings: Sequence[Evidence], truth: Truth | None, losses: Mapping[str, Faithfulness]) -> list[dict[str, Any]]:
    """The gates of the best `DRAWN` settings whose gates move, genre by genre, and what they are worth.

    Args:
        losses: {setting: what it lost without a modality}, of those that were asked.
    """
    return [_gates_of(one, truth, losses.get(one.name)) for one in _moving(settings)[:DRAWN]]


def undrawn_gates(settings: Sequence[Evidence]) -> list[str]:
    """The settings whose gates move, and for whom the page has no room."""
    return [one.name for one in _moving(settings)[DRAWN:]]


def still_gates(settings: Sequence[Evidence]) -> list[str]:
    """A sentence for every setting whose gate is one for all movies, be it a fixed rule or a gate that learned nothing."""
    still = [one for one in settings if one.test[0].gate is not None and not _moves(one)]
    sentences = []
    for one in still:
        movie = "movie" if _lacking_nothing(one.test[0]).all() else "movie that lacks nothing"
        at = ", ".join(f"{modality} {gate}" for modality, gate in _whole(one).items())
        sentences.append(f"The gate of {one.name} is the same for every {movie} ({at}).")
    return sentences


def _moving(settings: Sequence[Evidence]) -> list[Evidence]:
    return [one for one in settings if one.test[0].gate is not None and _moves(one)]


def _moves(one: Evidence) -> bool:
    """Whether any seed's gate differs between movies that lack nothing; of a single such movie nothing is said to be still."""
    gates = [p.gate[_lacking_nothing(p)] for p in one.test if p.gate is not None]
    return any(len(gate) < 2 for gate in gates) or any((gate.std(axis=0) > STILL).any() for gate in gates)


def _whole(one: Evidence) -> dict[str, str]:
    """{modality: gate of movies that lack nothing, from its lowest seed to its highest}."""
    gates = np.stack([p.gate[_lacking_nothing(p)].mean(axis=0) for p in one.test if p.gate is not None])
    ends = zip(one.test[0].modalities, gates.min(axis=0), gates.max(axis=0), strict=True)
    return {m: f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}" for m, low, high in ends}


def _lacking_nothing(p: Predictions) -> np.ndarray:
    """(N,) bool; all of them where fewer than two movies lack nothing."""
    whole = np.asarray(p.present.all(axis=1))
    return whole if whole.sum() > 1 else np.ones_like(whole)


def _gates_of(one: Evidence, truth: Truth | None, faithful: Faithfulness | None) -> dict[str, Any]:
    table = gate_table(one.test)
    found = recovered(truth, one.test) if truth else Recovered({}, {})
    columns = {
        "mean gate": _over_movies(one, np.mean),
        "sd across movies": _over_movies(one, np.std, ddof=1),
        "agreement with contribution": table.agreement,
        **_lost(faithful),
        "correlation with the truth": [found.correlation.get(m, math.nan) for m in table.modalities]
        if found.correlation
        else None,
    }
    shown = {name: values for name, values in columns.items() if values is not None}
    return {
        "name": one.name,
        "about": _about(one, faithful),
        "charts": [_drawn(one.name, table, figure) for figure in _figures(table, faithful)],
        "columns": list(shown),
        "rows": [{"name": m, "values": [float(of[k]) for of in shown.values()]} for k, m in enumerate(table.modalities)],
        "named": _named(found),
    }


def _about(one: Evidence, faithful: Faithfulness | None) -> str:
    error = decomposition_error(one.test)
    words = f"{len(one.test)} seeds."
    whole = _lacking_nothing(one.test[0])
    if not whole.all():
        words += f" The mean gate and its sd are of the {whole.sum()} test movies that lack nothing."
    if error is not None:
        words += f" Bias and contributions sum to the logits {'exactly' if error == 0 else f'to {error:.0e}'}."
    if faithful is None:
        return words
    words += f" What is lost without a modality is a mean over {faithful.runs} of them."
    return words + (" Foretold: Spearman's correlation over genres with the AP lost." if _known(faithful) else "")


def _over_movies(one: Evidence, summary: Callable[..., np.ndarray], **also: Any) -> np.ndarray:
    """(M,) of a run's gates over movies that lack nothing, a mean over seeds."""
    return np.mean([summary(p.gate[_lacking_nothing(p)], axis=0, **also) for p in one.test if p.gate is not None], axis=0)


def _known(faithful: Faithfulness) -> bool:
    return bool(np.isfinite(faithful.lost_by_genre).any())


def _lost(faithful: Faithfulness | None) -> dict[str, np.ndarray]:
    """Columns: what the gate promised, and what was lost."""
    if faithful is None:
        return {}
    columns = {"micro F1 lost without it": faithful.lost["f1_micro"], "micro AP lost without it": faithful.lost["ap_micro"]}
    if _known(faithful):
        columns["foretold by the gate"] = faithful.foretold["gate_weighted"]
        columns["foretold by contribution"] = faithful.foretold["contribution"]
    return columns


def _named(found: Recovered) -> str:
    """Whether contributions name the one modality that tells a genre."""
    if not found.named:
        return ""
    wrong = [f"{genre} ({said} instead of {true})" for genre, (true, said) in found.named.items() if said != true]
    words = f"Of {len(found.named)} genres that one modality alone tells, contributions name the right one for "
    return words + f"{len(found.named) - len(wrong)}" + (f"; wrong: {', '.join(wrong)}." if wrong else ".")


class _Figure(NamedTuple):
    """Bars of (C, M) values under a caption."""

    words: str
    values: np.ndarray
    caption: str
    bounds: tuple[float, float] | None = (0.0, 1.0)
    spread: np.ndarray | None = None


def _figures(table: GateTable, faithful: Faithfulness | None) -> Iterator[_Figure]:
    """The published figure, and what it hides."""
    of = table.values
    opened = "The published figure: the share of features whose gate is open, over the test movies that have the genre."
    yield _Figure("share of open features", of["gate_open"], opened)
    moved = "How far the gate is open; the whisker is its standard deviation from movie to movie, those without it being 0."
    yield _Figure("gate", of["gate"], moved, spread=np.nan_to_num(of["gate_sd_across_movies"]))
    weighted = "The gate, each feature counted as much as the genre's classifier counts it."
    for words, values, caption in (
        ("genre-weighted gate", of["gate_weighted"], weighted),
        ("contribution to the logit", of["contribution"], "What each modality adds to the genre's logit, exactly."),
    ):
        if not np.isnan(values).all():
            yield _Figure(words, values, caption, (0.0, 1.0) if "gate" in words else None)
    if faithful and _known(faithful):
        lost = (
            "What the genre's average precision lost when every movie went without the modality: what a faithful gate foretells."
        )
        yield _Figure("AP lost without it", faithful.lost_by_genre, lost, None)


def _drawn(name: str, table: GateTable, figure: _Figure) -> dict[str, str]:
    """Genres with most movies first."""
    groups = []
    for c in np.argsort(-table.movies, kind="stable"):
        spreads = [None] * len(table.modalities) if figure.spread is None else figure.spread[c].tolist()
        values = [None if math.isnan(value) else value for value in figure.values[c].tolist()]
        bars = zip(table.modalities, values, spreads, strict=True)
        groups.append(svg.Bars(f"{table.genres[c]} ({table.movies[c]})", list(bars)))
    about = f"{figure.words} of {name} for each genre and modality"
    return {"svg": svg.bars(groups, about, figure.words, figure.bounds), "caption": figure.caption}
