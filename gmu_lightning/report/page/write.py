"""report.html: everything there is to know of a comparison, in one file that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gmu_lightning.files import write_text
from gmu_lightning.report.comparison import OTHERWISE, Comparison
from gmu_lightning.report.evidence import Evidence, said
from gmu_lightning.report.markdown import is_it_the_gate
from gmu_lightning.report.page import sections
from gmu_lightning.report.page.board import board
from gmu_lightning.report.page.gates import gate_section, still_gates, undrawn_gates
from gmu_lightning.report.page.losses import loss_table, losses_of
from gmu_lightning.report.page.movies import browser
from gmu_lightning.report.page.shown import Shown
from gmu_lightning.report.search import searches
from gmu_lightning.report.verdicts import beside, counted
from gmu_lightning.run import Run
from gmu_lightning.visible import visible

TEMPLATE = Path(__file__).parent / "template"
SECTIONS = {
    "verdict": "Claims",
    "leaderboard": "Leaderboard",
    "curves": "Learning curves",
    "genres": "Genres",
    "calibration": "Calibration",
    "search": "Search",
    "lost": "Modalities",
    "gates": "Gates",
    "movies": "Movies",
    "left": "Problems",
    "environment": "Environment",
}
OPTIONAL = {
    "search": ["searches"],
    "lost": ["lost"],
    "gates": ["gates", "still_gates"],
    "movies": ["cards", "driven"],
}  # sections that may have nothing to tell, and what they tell of


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
    settings = comparison.alike
    last = max((run for one in settings for run in one.setting.finished), key=lambda run: run.status["ended"])
    data_set = str((settings[0].config.get("choices") or {}).get("data", "the data"))
    movies, losses = browser(comparison, shown), losses_of(settings)
    context: dict[str, Any] = {
        **_head(comparison, data_set, str(last.status["ended"])),
        **_claims(comparison),
        "board": board(comparison, "" if shown.truth else data_set),
        **_scores(settings),
        "searches": searches(runs),
        "gates": gate_section(settings, shown.truth, losses),
        "still_gates": still_gates(settings),
        "undrawn_gates": undrawn_gates(settings),
        "lost": loss_table(settings, losses),
        "cards": movies.cards,
        "driven": movies.driven,
        "failed": _ended_as("failed", runs),
        "interrupted": [name for name, _ in _ended_as("interrupted", runs)],
        "skipped": _skipped(runs),
        "audit": _audit(settings),
        "environment": _environment(last),
    }
    told = {name: words for name, words in SECTIONS.items() if any(context[key] for key in OPTIONAL.get(name, ["board"]))}
    css, js = ((TEMPLATE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return visible(_template().render(**context, sections=list(told.items()), css=css, js=js))


def _head(comparison: Comparison, data_set: str, ended: str) -> dict[str, Any]:
    settings, test = comparison.settings, comparison.settings[0].test[0]
    apart = f" ({counted(len(comparison.apart), 'setting')} otherwise)" if comparison.apart else ""
    of = f"{sum(len(one.test) for one in settings)} runs, {len(test.ids)} test movies{apart}, {len(test.genres)} genres"
    return {
        "title": f"{data_set}: {len(settings)} settings compared",
        "subtitle": f"{of}; the last run ended {ended}",
        "movies": len(test.ids),
        "genres": test.genres,
    }


def _claims(comparison: Comparison) -> dict[str, Any]:
    return {
        "metric": said(comparison.metric),
        "verdict": comparison.verdict,
        "caution": comparison.caution,
        "intervals": sections.interval_chart(comparison),
        "pairs": [pair.row() for pair in comparison.pairs],
        "controls": is_it_the_gate(comparison),
        "beside": [said(metric) for metric in beside(comparison.metric)],
        "refused": comparison.refused,
        "family": comparison.family,
        "otherwise": OTHERWISE,
        "left_out": comparison.left,
        "apart": [one.name for one in comparison.apart],
    }


def _scores(settings: Sequence[Evidence]) -> dict[str, Any]:
    kinds = sections.fusion_kinds(settings)
    return {
        "fusion_key": list(kinds.items()),
        "modality_key": [(m, m) for m in dict.fromkeys(m for one in settings for m in one.test[0].modalities)],
        "curves": sections.curve_charts(settings, kinds),
        "genre_tables": sections.genre_tables(settings),
        "distribution": sections.distribution(settings[0].setting.finished[0]),
        "confusion": sections.confusion(settings[0]),
        "reliability": sections.reliability_section(settings, kinds),
    }


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def _ended_as(state: str, runs: Iterable[Run]) -> list[tuple[str, str]]:
    return [(run.folder.name, str(status["why"])) for run in runs if (status := run.status).get("state") == state]


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
