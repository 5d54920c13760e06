"""Checks of a comparison's design: which settings ran, how often, and how they were tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmu_lightning.report.caveats import OF_EVERY_FUSION, listed, search_budgets, shortened, uneven
from gmu_lightning.report.checklist.found import (
    BOARD,
    COMPARISON,
    NO_FUSION,
    Found,
    again,
    all_seeds,
    fusing,
    modalities_of,
    span,
    trained,
)
from gmu_lightning.report.comparison import CONTROL, Comparison
from gmu_lightning.report.reproduce import more_seeds, override_key, train_all, with_fusion
from gmu_lightning.report.scoring import COUNTS, SECONDS, ScoredSetting
from gmu_lightning.report.search import FOLDER, searched_keys
from gmu_lightning.report.settings import FEWEST_SEEDS, Setting
from gmu_lightning.report.words import counted, ends
from gmu_lightning.run_files.plain import is_there
from gmu_lightning.run_files.shapes import is_number

CONTROLS = ("mean", CONTROL, "late_transformer")
OF_VECTORS = "_vectors"  # ending of the control's form that reads vectors
SHOWN = 3  # keys that were tried unevenly


def seeds(settings: Sequence[ScoredSetting]) -> Found:
    """Check that every setting has enough seeds for a test."""
    counts = {one.name: len(set(one.setting.seeds)) for one in settings}
    few = [one for one in settings if counts[one.name] < FEWEST_SEEDS]
    if not few:
        return Found(True, BOARD, f"{span(counts.values())} seeds of each of {counted(len(settings), 'setting')}")
    names = shortened([f"{one.name} ({counts[one.name]})" for one in few])
    return Found(False, BOARD, f"With fewer seeds no difference can be claimed: {names}", _more_seeds(few))


def intervals(comparison: Comparison) -> Found:
    """Check that every score has an interval over seeds and movies."""
    settings, metric = comparison.settings, comparison.metric
    unknown = [one for one in settings if one.scored(metric).interval.low is None]
    if not unknown:
        best = settings[0]
        return Found(True, COMPARISON, f"{best.name}: {ends(best.scored(metric).interval)}; every other setting has one, too")
    names = shortened([f"{one.name} ({len(one.test)} seeds, {len(one.test[0].ids)} movies)" for one in unknown])
    return Found(False, COMPARISON, f"Too few seeds or movies for an interval: {names}", _more_seeds(unknown))


def _more_seeds(few: Iterable[ScoredSetting]) -> str:
    return "\n".join(filter(None, (more_seeds(one.setting, FEWEST_SEEDS) for one in trained(few))))


def budgets(settings: Sequence[ScoredSetting]) -> Found:
    """Check that every setting had the same search budget. Without a search, all must have run on the same defaults."""
    tunable = trained(settings)
    own = [one.setting for one in tunable]
    unequal, reasons = _by_choice(own), []
    spent = search_budgets(tunable)
    sweeps = dict.fromkeys(run.folder.absolute().parent for one in own for run in one.finished)
    searches = [path for sweep in sweeps if is_there(path := sweep / FOLDER / "search.json")]
    proof = searches[0] if searches else settings[0].setting.finished[0] / "config.yaml"
    if len(spent) > 1:
        parts = "; ".join(f"{budget} of {shortened(names)}" for budget, names in spent.items())
        reasons.append(f"Not all settings were tuned alike: {parts}")
    elif unequal:
        parts = "; ".join(f"{key}: {values}" for key, values in list(unequal.items())[:SHOWN])
        reasons.append(f"Not all settings tried the same values ({parts})")
    if foreign := [one for one in settings if one.setting.is_adopted]:
        proof = proof if reasons else foreign[0].setting.finished[0] / "config.yaml"
        reasons.append(
            f"The budget of {shortened([one.name for one in foreign])} is unknown, for these predictions were made elsewhere"
        )
    if reasons:
        return Found(False, proof, ". ".join(reasons), _search_all(own, unequal) if len(spent) > 1 or unequal else "")
    if any(searched_keys(one.finished) for one in own):
        return Found(True, proof, f"{next(iter(spent))} of each setting over the same space")
    why = "Nothing was searched: all settings ran on the same values, which may suit one fusion better than another"
    return Found(True, settings[0].setting.finished[0] / "config.yaml", why)


def _by_choice(settings: Sequence[Setting]) -> dict[str, str]:
    """Return the uneven keys, as `uneven` does, that somebody chose. A fusion's own defaults are no tuning."""
    typed = {override_key(word) for one in settings for run in one.finished for word in run.overrides}
    return {key: values for key, values in uneven(settings).items() if key in typed or "experiment" in typed}


def _search_all(settings: Sequence[Setting], unequal: Iterable[str]) -> str:
    """Return the command that searches for each setting with the same budget, in a new sweep."""
    searched = {key for one in settings for key in searched_keys(one.finished)}
    return train_all(settings, all_seeds(settings), ["sweep=search"], {*searched, *unequal})


def unimodal(settings: Sequence[ScoredSetting]) -> Found:
    """Check that each modality was trained alone."""
    several = fusing(settings)
    if not several:
        return Found(True, BOARD, NO_FUSION)
    alone = [modalities_of(one)[0] for one in settings if one.fusion == "none"]
    needed = {m for one in several for m in modalities_of(one)}
    lacking = needed - set(alone)
    if not lacking:
        return Found(True, BOARD, f"A row of fusion none for each of {listed(sorted(needed))}")
    return Found(False, BOARD, f"No row of fusion none for {listed(sorted(lacking))}", _added(several, "none", sorted(lacking)))


def controls(settings: Sequence[ScoredSetting]) -> Found:
    """Check that the controls ran on the modalities of every other fusion."""
    several = fusing(settings)
    if not several:
        return Found(True, BOARD, NO_FUSION)
    reasons, commands = [], []
    for names, one in {frozenset(modalities_of(one)): one for one in reversed(several)}.items():
        there = {
            other.fusion.removesuffix(OF_VECTORS)
            for other in several
            if names == set(modalities_of(other)) and not _ungated_control(other)
        }
        if lacking := [name for name in CONTROLS if name not in there]:
            reasons.append(f"{listed(lacking)} on {'+'.join(modalities_of(one))}")
            commands.append(_added([one, *several], ",".join(lacking), ["+".join(modalities_of(one))]))
    if reasons:
        return Found(False, BOARD, f"Missing: {'; '.join(reasons)}", "\n".join(commands))
    return Found(True, BOARD, "All of them stand beside the other fusions of the same modalities")


def _added(settings: Iterable[ScoredSetting], fusion: str, modalities: Sequence[str]) -> str:
    """Return the command that trains fusions on these choices of modalities as the first trained setting was trained.

    It is empty if no setting was trained here.
    """
    first = next(iter(trained(settings)), None)
    if first is None:
        return ""
    own = ["+".join(modalities_of(first))]
    return with_fusion(first.setting, fusion, OF_EVERY_FUSION, () if modalities == own else modalities)


def _ungated_control(one: ScoredSetting) -> bool:
    """Whether a setting is `self_gate` with its gate switched off, so that it is no control."""
    return one.fusion == CONTROL and not (one.config.get("fusion") or {}).get("gate", True)


def costs(settings: Sequence[ScoredSetting]) -> Found:
    """Check that parameters and seconds of every run are known, so that they stand beside the scores."""
    unknown = [one for one in settings if not all(_has_costs(run.metrics) for run in one.setting.finished)]
    if not unknown:
        return Found(True, BOARD, "Columns parameters, parameters_fusion and seconds/mean")
    names = shortened([one.name for one in unknown])
    proof = next(run / "metrics.json" for run in unknown[0].setting.finished if not _has_costs(run.metrics))
    return Found(False, proof, f"Not recorded for {names}", again(unknown))


def _has_costs(metrics: Mapping[str, Any]) -> bool:
    return all(is_number(value := metrics.get(key, 0)) and value > 0 for key in (COUNTS["parameters"], SECONDS))
