"""What a reader should mind beside a comparison's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmu_lightning.report.evidence import Evidence, said
from gmu_lightning.report.search import budget
from gmu_lightning.run import Run

RARE = {"f1_macro": 8, "ap_macro": 32}  # test movies of a genre, below which intervals were seen to be too short
COMPUTING = (  # packages of environment.json that a run's numbers may depend on
    "gmu-lightning",
    "torch",
    "pytorch-lightning",
    "transformers",
    "timm",
    "numpy",
    "pillow",
    "av",
)
BACKENDS = ("openvino", "onnxruntime")  # packages that matter to the features that they computed


def rare_genres(metric: str, settings: Sequence[Evidence]) -> str | None:
    """Of a macro score's intervals, where some genres have so few test movies that one movie more or less is much of it."""
    least = RARE.get(metric.partition("@")[0])
    if least is None:
        return None
    first = settings[0].test[0]
    rare = [f"{genre} {n}" for genre, n in zip(first.genres, first.labels.sum(axis=0), strict=True) if n < least]
    if not rare:
        return None
    listed = ", ".join(rare[:5]) + (", ..." if len(rare) > 5 else "")
    how = "less often than 95 times in 100"
    if metric == "ap_macro":  # a genre's AP from few movies is too high, and a single one says nothing of how they vary
        how += ", and far less often where many genres have one to four"
    return (
        f"{len(rare)} of {len(first.genres)} genres have fewer than {least} test movies ({listed}): intervals of {said(metric)} "
        f"then hold the mean {how}. Settings that are equal are called different no more often for that."
    )


def mixed_searches(settings: Sequence[Evidence]) -> str | None:
    """Of settings on which unequal care was spent: a rival that was not tuned is easily beaten."""
    spent: dict[tuple[str, str], list[str]] = {}
    for one in settings:
        spent.setdefault(budget(one.setting.finished), []).append(one.name)
    if len(spent) < 2:
        return None
    spaces = len({space for _, space in spent if space}) > 1
    listed = "; ".join(
        f"{trials}{f' ({space})' if space and spaces else ''} of {', '.join(names)}" for (trials, space), names in spent.items()
    )
    return f"Not all settings were tuned alike, and some of a difference may be of that: {listed}."


def mixed_software(settings: Sequence[Evidence]) -> str | None:
    """Of runs that different versions, commits or kinds of device computed: some of a difference may be of those."""
    runs = [run for one in settings for run in one.setting.finished]
    differing = [
        f"{name} " + ", ".join(f"{value} in {count}" for value, count in counts.most_common())
        for name, counts in _computed_by(runs).items()
        if len(counts) > 1
    ]
    if not differing:
        return None
    return f"Not all of these runs were computed alike, and some of a difference may be of that: {'; '.join(differing)}."


def _computed_by(runs: Iterable[Run]) -> dict[str, Counter[str]]:
    """{what: {its value: in how many of the runs that say it}}."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        said_of = run.environment
        packages, encode = said_of.get("packages") or {}, said_of.get("encode") or {}
        values = {
            "commit": (said_of["git_commit"] or "none")[:7] if "git_commit" in said_of else None,  # none: an installed package
            "device": str(said_of.get("device") or "").partition(" (")[0],  # processors differ in their last bits alone
            "python": said_of.get("python"),
            **{name: packages.get(name) for name in COMPUTING},
            **{f"encode.backend of {modality}": _backend(how, packages) for modality, how in encode.items()},
        }
        for name, value in values.items():
            if value:
                found.setdefault(name, Counter())[str(value)] += 1
    return found


def _backend(how: Mapping[str, Any], packages: Mapping[str, str | None]) -> str | None:
    """What computed features, and its version where it is no package of `COMPUTING`."""
    name = how.get("backend")
    return f"{name} {packages[name]}" if name in BACKENDS and packages.get(name) else name
