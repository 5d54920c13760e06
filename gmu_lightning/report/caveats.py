"""Caveats of a comparison: rare genres, unequal settings, searches and software."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gmu_lightning.config.identity import AS_BEFORE, NOT_IDENTITY
from gmu_lightning.report.scoring import ScoredSetting, metric_label
from gmu_lightning.report.search import budget, searched_keys
from gmu_lightning.report.settings import ALWAYS, Setting, value_of
from gmu_lightning.report.splits import KEYS, MISSING, SHARE

RARE = {"f1_macro": 8, "ap_macro": 32}  # fewest test movies of a genre for intervals of full length
# Packages of environment.json that a run's numbers may depend on.
COMPUTING = ("gmu-lightning", "torch", "pytorch-lightning", "transformers", "timm", "numpy", "pillow", "av")
# Options of most fusions. Every other option belongs to one kind of fusion.
OF_EVERY_FUSION = ("bias", "dim", "head", "hidden", "maxout_dropout", "maxout_hidden", "maxout_pieces")
COMPARED = ("seed", "modalities", "fusion._target_", "fusion._partial_", "adopted.name")  # these differ on purpose
NO_GROUPS = ("fusion", "sweep", "experiment", "logger")  # groups compared by their values, or not at all
HARD = "hard_labels"  # code of the warning of adopted labels
NO_TUNING = ("data", "training")  # of `uneven`
SHOWN = 6  # keys, and settings of each value


def caveats(metric: str, settings: Sequence[ScoredSetting]) -> str | None:
    """Return all caveats of a comparison as one text; None without any."""
    own = [one.setting for one in settings]
    found = [rare_genres(metric, settings), unfair(own), mixed_searches(settings), mixed_software(settings), adopted(own)]
    return " ".join(filter(None, found)) or None


def rare_genres(metric: str, settings: Sequence[ScoredSetting]) -> str | None:
    """Return a caveat on intervals of a macro score with rare genres."""
    least = RARE.get(metric.partition("@")[0])
    if least is None:
        return None
    first = settings[0].test[0]
    rare = [f"{genre} {n}" for genre, n in zip(first.genres, first.labels.sum(axis=0), strict=True) if n < least]
    if not rare:
        return None
    some = ", ".join(rare[:5]) + (", ..." if len(rare) > 5 else "")
    how = "less often than 95 times in 100"
    if metric == "ap_macro":  # the AP of few movies is too high, and one movie has no variance
        how += ", and far less often where many genres have one to four"
    return (
        f"{len(rare)} of {len(first.genres)} genres have fewer than {least} test movies ({some}). Intervals of "
        f"{metric_label(metric)} then hold the mean {how}. The share of false claims stays the same."
    )


def mixed_searches(settings: Sequence[ScoredSetting]) -> str | None:
    """Return a caveat on settings with different search budgets."""
    spent = search_budgets(settings)
    if len(spent) < 2:
        return None
    all_spent = [f"{budget} of {', '.join(names)}" for budget, names in spent.items()]
    return f"Not all settings were tuned alike, and some of a difference may be of that: {'; '.join(all_spent)}."


def search_budgets(settings: Sequence[ScoredSetting]) -> dict[str, list[str]]:
    """Return {search budget in words, with the space where spaces differ: names of the settings that had it}."""
    spent: dict[tuple[str, str], list[str]] = {}
    for one in settings:
        if one.setting.is_adopted:
            continue
        spent.setdefault(budget(one.setting.finished), []).append(one.name)
    spaces = len({space for _, space in spent if space}) > 1
    return {f"{n}{f' ({space})' if space and spaces else ''}": names for (n, space), names in spent.items()}


def adopted(settings: Sequence[Setting]) -> str | None:
    """Return a caveat on adopted predictions, and on those among them that are labels."""
    names = [one.name for one in settings if one.is_adopted]
    if not names:
        return None
    hard = [one.name for one in settings if one.is_adopted and any(warning.startswith(HARD) for warning in one.warnings)]
    words = (
        f"The predictions of {shortened(names)} were made elsewhere. Movies, splits and labels are checked. The training, the "
        "tuning, the parameters and the seconds are unknown."
    )
    if not hard:
        return words
    gives = "gives" if len(hard) == 1 else "give"
    return (
        f"{words} {shortened(hard)} {gives} labels and no probabilities: average precision then has two levels to rank by, so "
        "compare F1, at the threshold .5."
    )


def mixed_software(settings: Sequence[ScoredSetting]) -> str | None:
    """Return a caveat on runs from different package versions, commits or devices."""
    environments = [run.environment for one in settings for run in one.setting.finished]
    differing = [
        f"{name} " + ", ".join(f"{value} in {count}" for value, count in counts.most_common())
        for name, counts in computed_by(environments).items()
        if len(counts) > 1
    ]
    if not differing:
        return None
    return f"Not all of these runs were computed alike, and some of a difference may be of that: {'; '.join(differing)}."


def computed_by(environments: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Return {property: {value: number of runs}}, from the content of each run's environment.json."""
    found: dict[str, Counter[str]] = {}
    for said_of in environments:
        packages = said_of.get("packages") or {}
        values = {
            "commit": (said_of["git_commit"] or "none")[:7] if "git_commit" in said_of else None,  # none: an installed package
            "device": str(said_of.get("device") or "").partition(" (")[0],  # processors differ in their last bits alone
            "python": said_of.get("python"),
            **{name: packages.get(name) for name in COMPUTING},
        }
        for modality, how in (said_of.get("encode") or {}).items():
            name = how.get("backend") or ""
            version = "" if name in COMPUTING else packages.get(name)
            values[f"encode.backend of {modality}"] = f"{name} {version}" if version else name
        for name, value in values.items():
            if value:
                found.setdefault(name, Counter())[str(value)] += 1
    return found


def unfair(settings: Sequence[Setting]) -> str | None:
    """Return a sentence with every other difference between these settings, value by value; None without any."""
    finished = [one for one in settings if one.finished]
    told = {one.name: _told(one) for one in finished}
    compared = [key for key in differing(finished) if not key.startswith((SHARE, MISSING))]  # such settings are not compared
    lines = [f"{key}: {_holders(key, told)}" for key in compared]
    if not lines:
        return None
    more = f"; and {len(lines) - SHOWN} more keys" if len(lines) > SHOWN else ""
    return (
        "These settings differ in more than fusion and modalities, and some of a difference may come from that: "
        f"{'; '.join(lines[:SHOWN])}{more}."
    )


def differing(settings: Sequence[Setting]) -> list[str]:
    """Return the keys of which these settings have different values, beside fusion, modalities and seed.

    A group (`encoder/text`) stands for all of its keys. Each key is compared between the settings that have it. Keys tuned by a
    search are left out.
    """
    told = [_told(one) for one in settings]
    keys = dict.fromkeys(key for one in told for key in one)
    found = [key for key in keys if len({_text(one[key]) for one in told if key in one}) > 1]
    groups = [key for key in found if key in {group for one in settings for group in _choices(one)}]
    inside = tuple(f"{group.replace('/', '.')}." for group in groups)
    return [key for key in found if key in groups or not key.startswith(inside)]


def uneven(settings: Sequence[Setting]) -> dict[str, str]:
    """Return {key: its values with their settings} of the keys that gave one fusion other values than another.

    A value that every fusion on every choice of modalities had, as in a cross product, is no advantage. Each key is compared
    between the fusions that have it. Options of the data and the methods of training are no tuning, and are left out.
    """
    told = {one.name: _told(one) for one in settings}
    found = {}
    for key in differing(settings):
        tried: dict[tuple[str | None, ...], set[str]] = {}
        for one in settings:
            if key in told[one.name]:
                tried.setdefault(tuple(one.values[name] for name in ALWAYS), set()).add(_text(told[one.name][key]))
        if len(set(map(frozenset, tried.values()))) > 1 and key.split(".")[0] not in NO_TUNING:
            found[key] = _holders(key, told)
    return found


def _holders(key: str, told: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the values of a key with the settings that have each, as `0.1 in a and b, 0.2 in c`."""
    holders: dict[str, list[str]] = {}
    for name, of in told.items():
        if key in of:
            holders.setdefault(_text(of[key]), []).append(name)
    return ", ".join(f"{value} in {shortened(sorted(names))}" for value, names in sorted(holders.items()))


def _told(one: Setting) -> dict[str, Any]:
    """Return the value of each key and group with an influence on the result."""
    config = one.of_finished[0]
    tuned = searched_keys(one.finished)
    values = {group: value_of(config, group) for group in _choices(one)} | dict(_leaves(config))
    left_out = {*COMPARED, *tuned, *(KEYS if one.splits else ())}
    return {key: value for key, value in values.items() if key not in left_out}


def _choices(one: Setting) -> list[str]:
    choices = one.of_finished[0].get("choices") or {}
    return [group for group in choices if group not in NO_GROUPS]


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        own = prefix == "fusion." and (key not in OF_EVERY_FUSION or value is None)  # dim: null is the fusion's own size
        if own or name in NOT_IDENTITY or (name in AS_BEFORE and value == AS_BEFORE[name]):
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shortened(names: Sequence[str]) -> str:
    """Return names as `a, b and c`; of more than `SHOWN` + 1, the first `SHOWN` and the number of the others."""
    return listed([*names[:SHOWN], f"{len(names) - SHOWN} more"] if len(names) > SHOWN + 1 else names)


def listed(names: Sequence[str]) -> str:
    """Return names as `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
