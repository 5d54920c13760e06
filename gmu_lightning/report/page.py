"""report.html: everything there is to know of a comparison, in one file that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gmu_lightning.files import write_text
from gmu_lightning.report import page_sections as sections
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.evidence import Evidence, said
from gmu_lightning.report.gate_evidence import driven
from gmu_lightning.report.inference import Interval
from gmu_lightning.report.page_gates import gate_section
from gmu_lightning.report.search import searches
from gmu_lightning.report.shown import Shown
from gmu_lightning.report.verdicts import beside, command
from gmu_lightning.run import Predictions, Run

TEMPLATE = Path(__file__).parent / "template"
SAMPLE = 36  # movies of the browser
DRIVEN = 3  # most driven movies of each modality
RULES = ("f1_micro@val", "f1_micro@val_per_genre", "f1_macro@val", "f1_macro@val_per_genre")
SCORES = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", *RULES)
FIRST_LETTERS = 1200  # of a plot


def chosen_movies(comparison: Comparison) -> list[str]:
    """The test movies that a page shows: a sample drawn with a fixed seed, and those that one modality drives."""
    ids = comparison.settings[0].test[0].ids
    return list(dict.fromkeys([*sample(ids), *(ids[n] for rows in _driven(comparison).values() for n in rows)]))


def sample(ids: Sequence[str]) -> list[str]:
    """At most `SAMPLE` of the split's movies, in its order, drawn with seed 0."""
    rows = np.random.default_rng(0).permutation(len(ids))[:SAMPLE]
    return [ids[n] for n in sorted(rows)]


def write_page(comparison: Comparison, runs: Sequence[Run], folder: Path, shown: Shown | None = None) -> Path:
    """Write report.html.

    Args:
        runs: all there are, also those that failed or were skipped; a search is told of if one of their sweeps made it.
        shown: plots, posters and the truth, where the data could be read.
    """
    path = folder / "report.html"
    write_text(path, page(comparison, runs, shown or Shown()))
    return path


def page(comparison: Comparison, runs: Sequence[Run], shown: Shown) -> str:
    """The page's text."""
    settings = list(comparison.settings)
    first = settings[0]
    kinds = sections.fusion_kinds(settings)
    last = max((run for one in settings for run in one.setting.finished), key=lambda run: run.status["ended"])
    gates = gate_section(settings, shown.truth)
    cards, driven_groups = _movies(comparison, shown)
    modalities = list(dict.fromkeys(m for one in settings for m in one.test[0].modalities))
    data_set = str((first.config.get("choices") or {}).get("data", "the data"))
    context: dict[str, Any] = {
        "title": f"{data_set}: {len(settings)} settings compared",
        "subtitle": f"{sum(len(one.test) for one in settings)} runs, {len(first.test[0].ids)} test movies, "
        f"{len(first.test[0].genres)} genres; the last run ended {last.status['ended']}",
        "metric": said(comparison.metric),
        "movies": len(first.test[0].ids),
        "verdict": comparison.verdict,
        "intervals": sections.interval_chart(comparison),
        "pairs": [pair.row() for pair in comparison.pairs],
        "beside": [said(metric) for metric in beside(comparison.metric)],
        "refused": comparison.refused,
        "board": _board(comparison, data_set),
        "filters": {
            key: list(dict.fromkeys(str(one.setting.values[key]) for one in settings)) for key in ("modalities", "fusion")
        },
        "fusion_key": list(kinds.items()),
        "modality_key": [(m, m) for m in modalities],
        "curves": sections.curve_charts(settings, kinds),
        "genre_tables": sections.genre_tables(settings),
        "distribution": sections.distribution(first.setting.finished[0]),
        "confusion": sections.confusion(first),
        "reliability": sections.reliability_section(settings, kinds),
        "gates": gates,
        "searches": searches(runs),
        "cards": cards,
        "driven": driven_groups,
        "genres": first.test[0].genres,
        "sample": f"{len(cards)} of {len(first.test[0].ids)} test movies, drawn with seed 0",
        "failed": [(run.folder.name, str(run.status["why"])) for run in runs if run.status.get("state") == "failed"],
        "skipped": _skipped(runs),
        "audit": _audit(settings),
        "environment": _environment(last),
    }
    names = {
        "verdict": "Claims",
        "leaderboard": "Leaderboard",
        "curves": "Learning curves",
        "genres": "Genres",
        "calibration": "Calibration",
        **({"search": "Search"} if context["searches"] else {}),
        **({"gates": "Gates"} if gates else {}),
        **({"movies": "Movies"} if cards or driven_groups else {}),
        "left": "Problems",
        "environment": "Environment",
    }
    css, js = ((TEMPLATE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return _template().render(**context, sections=list(names.items()), css=css, js=js)


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def _board(comparison: Comparison, data_set: str) -> dict[str, Any]:
    first = comparison.settings[0].setting
    names = ["fusion", "modalities", *(key for key in first.values if key not in ("fusion", "modalities"))]
    also = [score for score in SCORES if score != comparison.metric]
    rows = [_measured(one, comparison, names, also) for one in comparison.settings]
    published = [_published(row, source, comparison.metric, names, also) for row, source in published_rows(data_set)]
    by_mean = sorted([*rows, *published], key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)
    return {"names": names, "scores": [said(score) for score in also], "rows": by_mean, "published": bool(published)}


def _measured(one: Evidence, comparison: Comparison, names: Sequence[str], also: Sequence[str]) -> dict[str, Any]:
    metrics = [run.metrics for run in one.setting.finished]
    values = one.setting.values
    return {
        "names": [values.get(name) or "" for name in names],
        "filter": {key: str(values[key]) for key in ("modalities", "fusion")},
        "published": False,
        "seeds": len(one.test),
        "mean": one.scored(comparison.metric).mean,
        "interval": ends(one.scored(comparison.metric).interval),
        "letters": comparison.letters.get(one.name, ""),
        "scores": [one.scored(score).mean for score in also],
        "parameters": metrics[0].get("parameters/total"),
        "seconds": float(np.mean([m["seconds/total"] for m in metrics])) if all("seconds/total" in m for m in metrics) else None,
        "command": command(one.setting, [int(seed) for seed in one.setting.seeds]),
        "source": "",
        "warnings": "; ".join(one.setting.warnings),
    }


def _published(row: Mapping[str, Any], source: str, metric: str, names: Sequence[str], also: Sequence[str]) -> dict[str, Any]:
    return {
        "names": [str(row.get(name, "")) for name in names],
        "filter": {key: str(row[key]) for key in ("modalities", "fusion")},
        "published": True,
        "seeds": None,
        "mean": row.get(metric),
        "interval": "",
        "letters": "",
        "scores": [row.get(score) for score in also],
        "parameters": None,
        "seconds": None,
        "command": "",
        "source": source,
        "warnings": "",
    }


def published_rows(data_set: str) -> list[tuple[dict[str, Any], str]]:
    """What others reported on a data set, each row with its source."""
    tables = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))
    return [(row, table["source"]) for table in tables if table["data"] == data_set for row in table["rows"]]


def ends(interval: Interval) -> str:
    """`[0.612, 0.634]`"""
    return "too few seeds" if interval.low is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def _driven(comparison: Comparison) -> dict[str, list[int]]:
    """Of the best setting that can say it."""
    found = (driven(one.test, DRIVEN) for one in comparison.settings)
    return next((rows for rows in found if rows), {})


def _movies(comparison: Comparison, shown: Shown) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not shown.movies:
        return [], []
    ids = comparison.settings[0].test[0].ids
    row = {movie: n for n, movie in enumerate(ids)}
    spoken = [(one, _mean(one)) for one in comparison.settings if one.test[0].ids == ids]
    cards = [_card(movie, row[movie], spoken, shown) for movie in sample(ids) if movie in shown.movies]
    by = next((one.name for one in comparison.settings if driven(one.test, 1)), "")
    groups = [
        {
            "title": f"Most driven by {modality}, for {by}",
            "cards": [_card(ids[n], n, spoken, shown) for n in rows if ids[n] in shown.movies],
        }
        for modality, rows in _driven(comparison).items()
    ]
    return cards, [group for group in groups if group["cards"]]


def _mean(one: Evidence) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (N, C) and contributions (N, M, C), means over seeds."""
    exact = [p.contributions for p in one.test if p.contributions is not None]
    return np.mean([p.probabilities for p in one.test], axis=0), np.mean(exact, axis=0) if len(exact) == len(one.test) else None


def _card(
    movie: str, n: int, spoken: Sequence[tuple[Evidence, tuple[np.ndarray, np.ndarray | None]]], shown: Shown
) -> dict[str, Any]:
    first: Predictions = spoken[0][0].test[0]
    content = shown.movies[movie]
    plot = content.plot
    if plot and len(plot) > FIRST_LETTERS:
        plot = plot[:FIRST_LETTERS] + " …"
    rows = []
    for one, (probabilities, parts) in spoken:
        genres = []
        for c, genre in enumerate(first.genres):
            true, told = bool(first.labels[n, c]), bool(probabilities[n, c] >= 0.5)
            if true or told:
                kind = "right" if true and told else "missed" if true else "wrong"
                title = {"right": "predicted, and true", "missed": "true, and not predicted", "wrong": "predicted, and not true"}[
                    kind
                ]
                words = (
                    ""
                    if parts is None or len(one.test[0].modalities) < 2
                    else ", ".join(f"{m} {parts[n, k, c]:+.1f}" for k, m in enumerate(one.test[0].modalities))
                )
                genres.append(
                    {"name": genre, "kind": kind, "title": title, "probability": float(probabilities[n, c]), "parts": words}
                )
        rows.append({"name": one.name, "genres": genres})
    true_genres = [g for c, g in enumerate(first.genres) if first.labels[n, c]]
    return {"id": movie, "genres": true_genres, "plot": plot, "poster": content.poster, "rows": rows}


def _skipped(runs: Iterable[Run]) -> list[tuple[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if run.status.get("state") == "skipped":
            reasons.setdefault(str(run.status["why"]), []).append(run.folder.name)
    return list(reasons.items())


def _audit(settings: Sequence[Evidence]) -> list[str]:
    """Of the run that read most modalities."""
    widest = max(settings, key=lambda one: len(one.test[0].modalities))
    audit = widest.setting.finished[0].audit
    lines = [f"{split}: {count} movies" for split, count in (audit.get("movies") or {}).items()]
    actions = Counter((p["kind"], p["action"]) for p in audit.get("problems") or [])
    lines += [f"{kind}: {count}, {action.replace('_', ' ')}" for (kind, action), count in sorted(actions.items())]
    return lines or ["the runs left no audit"]


def _environment(run: Run) -> list[tuple[str, str]]:
    said_of = run.environment
    packages = said_of.get("packages") or {}
    rows = {
        "device": said_of.get("device"),
        "threads": said_of.get("threads"),
        "python": said_of.get("python"),
        "platform": said_of.get("platform"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        "commit": said_of.get("git_commit"),
        "data": ", ".join(f"{name} {value}" for name, value in run.data_fingerprint.items()),
        "command": said_of.get("command"),
    }
    return [(name, str(value)) for name, value in rows.items() if value]
