"""report.html: the whole comparison in one file that needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gmu_lightning.report.caveats import listed
from gmu_lightning.report.checklist.items import SOURCE, Item, verdict
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.curve_tables import other_questions
from gmu_lightning.report.leaderboard import page_table
from gmu_lightning.report.page import sections
from gmu_lightning.report.page.diagnoses import diagnosis_section
from gmu_lightning.report.page.gates import gate_sections
from gmu_lightning.report.page.movies import ExampleMovies, browser
from gmu_lightning.report.page.pairs import pair_matrix, seed_commands
from gmu_lightning.report.page.splits import data_curves, on_one_split, split_section
from gmu_lightning.report.reproduce import command
from gmu_lightning.report.scoring import OTHERWISE, ScoredSetting, companion_metrics, metric_label
from gmu_lightning.report.search import searches
from gmu_lightning.report.sentences import as_json, counted, is_it_the_gate, summary
from gmu_lightning.report.settings import by_reason, ended_as
from gmu_lightning.run import Run
from gmu_lightning.visible import visible

TEMPLATE = Path(__file__).parent / "template"
SECTIONS = {
    "summary": "Summary",
    "leaderboard": "Leaderboard",
    "pairs": "Pairwise differences",
    "splits": "Splits",
    "amounts": "Amounts of data",
    "gates": "Gates",
    "diagnoses": "Diagnoses",
    "ablation": "Modality ablation",
    "genres": "Scores by genre",
    "calibration": "Calibration",
    "curves": "Learning curves",
    "search": "Hyperparameter search",
    "movies": "Example movies",
    "checklist": "Checklist",
    "runs": "Runs and data",
    "environment": "Environment",
}
DECISIONS = {
    "multilabel": "F1 uses the threshold .5 unless stated, AP needs no threshold.",
    "multiclass": "The prediction is the most probable label. AP is of each label against all others.",
}
OPTIONAL = {  # sections that may be empty, with their parts
    "search": ["searches"],
    "splits": ["splits"],
    "amounts": ["data_curves"],
    "ablation": ["ablation"],
    "gates": ["gates", "still_gates"],
    "movies": ["cards", "driven"],
    "checklist": ["checks"],
    "diagnoses": ["diagnosis"],
}


def page(comparison: Comparison, runs: Sequence[Run], examples: ExampleMovies, checks: Sequence[Item] = ()) -> str:
    """Return the text of report.html.

    Args:
        runs: all runs, including failed and skipped ones.
        examples: plots, posters and the truth; empty if the data could not be read.
        checks: the checklist; without items, the page has no such section.
    """
    settings = on_one_split(comparison)
    trained = [one for one in settings if not one.setting.is_adopted]
    last = max((run for one in trained or settings for run in one.setting.finished), key=lambda run: run.status["ended"])
    data_set = str((settings[0].config.get("choices") or {}).get("data", "the data"))
    context: dict[str, Any] = {
        **_findings(comparison, data_set, str(last.status["ended"])),
        "board": page_table(comparison, [] if examples.truth else published_rows(data_set)),
        **_scores(settings),
        "searches": searches(runs),
        **gate_sections(settings, examples.truth),
        "diagnosis": diagnosis_section(comparison),
        **browser(comparison, examples),
        **split_section(comparison),
        "data_curves": data_curves(comparison),
        "checks": checks,
        "checked": verdict(checks) if checks else "",
        "source": SOURCE,
        **_ended(runs),
        "audit": _audit(settings),
        "environment": _environment(last),
    }
    shown = {name: words for name, words in SECTIONS.items() if any(context[key] for key in OPTIONAL.get(name, ["board"]))}
    css, js = ((TEMPLATE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return visible(_template().render(**context, sections=list(shown.items()), css=css, js=js, policy=policy(js)))


def policy(script: str = "") -> str:
    """Return the Content-Security-Policy of a page: nothing is loaded, and no script runs but this one, known by its hash."""
    known = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    return (
        f"default-src 'none'; script-src {known}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _ended(runs: Sequence[Run]) -> dict[str, Any]:
    """Return how the runs ended: failed and interrupted ones by name, skipped ones by reason, and a sentence of counts."""
    failed, interrupted, skipped = (ended_as(state, runs) for state in ("failed", "interrupted", "skipped"))
    parts = [f"{counted(len(ended_as('finished', runs)), 'run')} finished", f"{len(failed)} failed"]
    parts += [f"{len(interrupted)} were interrupted"] if interrupted else []
    parts += (
        [f"{counted(len(skipped), 'invalid combination')} {'was' if len(skipped) == 1 else 'were'} skipped"] if skipped else []
    )
    return {
        "failed": failed,
        "interrupted": [name for name, _ in interrupted],
        "skipped": by_reason(skipped),
        "ended": f"{listed(parts)}.",
    }


def published_rows(data_set: str) -> list[dict[str, Any]]:
    """Return the published results on a data set, each with its `source`."""
    tables = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))
    return [row | {"source": table["source"]} for table in tables if table["data"] == data_set for row in table["rows"]]


def _findings(comparison: Comparison, data_set: str, ended: str) -> dict[str, Any]:
    settings, best, test = comparison.settings, comparison.settings[0], comparison.settings[0].test[0]
    apart = f" ({counted(len(comparison.apart), 'setting')} otherwise)" if comparison.apart else ""
    facts = {
        "settings": len(settings),
        "runs": sum(len(one.test) for one in settings),
        **({"splits": len(comparison.splits)} if comparison.splits else {}),
        "test movies": f"{len(test.ids):,}{apart}",
        "genres": len(test.genres),
        "last run": ended[:16].replace("T", " ") + " UTC",
    }
    return {
        "title": f"{data_set}: {counted(len(settings), 'setting')} compared",
        "facts": facts,
        "best": {"name": best.name, "command": command(best.setting, [int(seed) for seed in best.setting.seeds])},
        "found": as_json(comparison),
        "other_amounts": other_questions(comparison),
        "tested": f"over {len(comparison.splits)} splits" if comparison.splits else f"on {len(test.ids)} test movies",
        "genres": test.genres,
        "metric": metric_label(comparison.metric),
        "verdict": summary(comparison),
        "intervals": sections.interval_charts(comparison),
        "matrix": pair_matrix(comparison),
        "seed_commands": seed_commands(comparison),
        "controls": is_it_the_gate(comparison),
        "beside": [metric_label(metric) for metric in companion_metrics(comparison.metric, comparison.task)],
        "decisions": DECISIONS[comparison.task],
        "otherwise": OTHERWISE,
        "apart": [one.name for one in comparison.apart],
    }


def _scores(settings: Sequence[ScoredSetting]) -> dict[str, Any]:
    kinds, one_label = sections.fusion_kinds(settings), settings[0].task == "multiclass"
    return {
        "fusion_key": list(kinds.items()),
        "modality_key": [(m, m) for m in dict.fromkeys(m for one in settings for m in one.test[0].modalities)],
        "curves": sections.curve_charts(settings, kinds),
        "genre_tables": sections.genre_tables(settings),
        "distribution": sections.distribution(settings[0].setting.finished[0]),
        "cooccurrence": None if one_label else sections.cooccurrence(settings[0]),
        "confusion": sections.confusion_matrix(settings[0]) if one_label else None,
        "reliability": sections.reliability_section(settings, kinds),
    }


@cache
def _template() -> Any:
    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=FileSystemLoader(TEMPLATE), **options).get_template("page.html.j2")


def _audit(settings: Sequence[ScoredSetting]) -> dict[str, Any]:
    """Return the audit of the setting with most modalities: a sentence, movies of each split, and a row per kind of problem."""
    widest = max(settings, key=lambda one: len(one.test[0].modalities))
    audit = widest.setting.finished[0].audit
    problems = audit.get("problems") or []
    lost = {action: len({p["id"] for p in problems if p["action"] == action}) for action in ("removed", "kept_absent")}
    movies = (audit.get("movies") or {}).items()
    return {
        "about": f"{counted(lost['removed'], 'movie')} removed, {lost['kept_absent']} kept without a modality.",
        "splits": ", ".join(f"{count:,} {split}" for split, count in movies),
        "problems": [
            (kind, action.replace("_", " "), count)
            for (kind, action), count in sorted(Counter((p["kind"], p["action"]) for p in problems).items())
        ],
    }


def _environment(run: Run) -> list[tuple[str, str]]:
    found = run.environment
    packages = ", ".join(f"{name} {version}" for name, version in (found.get("packages") or {}).items() if version)
    data = ", ".join(f"{name} {value}" for name, value in run.data_fingerprint.items())
    rows = {key: found.get(key) for key in ("device", "threads", "python", "platform")}
    rows |= {"packages": packages, "commit": found.get("git_commit"), "data": data, "command": found.get("command")}
    return [(name, str(value)) for name, value in rows.items() if value]
