"""Whether settings differ in more than their fusion and modalities, and in what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gmu_lightning.report.search import searched_keys
from gmu_lightning.report.settings import Setting, value_of
from gmu_lightning.run import AS_BEFORE, NOT_IDENTITY

# Options that most fusions have; all others belong to one kind of fusion.
OF_EVERY_FUSION = ("bias", "dim", "head", "hidden", "maxout_dropout", "maxout_hidden", "maxout_pieces")
COMPARED = ("seed", "modalities", "fusion._target_", "fusion._partial_")  # these differ on purpose
NO_GROUPS = ("fusion", "sweep", "experiment", "logger")  # groups compared by their values, or not at all
SHOWN = 6  # keys, and settings of each value


def unfair(settings: Sequence[Setting]) -> str | None:
    """Return a sentence with every other difference between these settings, value by value; None without any."""
    finished = [one for one in settings if one.finished]
    told = {one.name: _told(one) for one in finished}
    lines = []
    for key in differing(finished):
        holders: dict[str, list[str]] = {}
        for one in finished:
            if key in told[one.name]:
                holders.setdefault(_text(told[one.name][key]), []).append(one.name)
        lines.append(f"{key}: " + ", ".join(f"{value} in {_names(sorted(names))}" for value, names in sorted(holders.items())))
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


def _told(one: Setting) -> dict[str, Any]:
    """Return the value of each key and group with an influence on the result."""
    config = one.of_finished[0]
    tuned = searched_keys(one.finished)
    values = {group: value_of(config, group) for group in _choices(one)} | dict(_leaves(config))
    return {key: value for key, value in values.items() if key not in COMPARED and key not in tuned}


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


def _names(names: Sequence[str]) -> str:
    shown = [*names[:SHOWN], f"{len(names) - SHOWN} more"] if len(names) > SHOWN + 1 else list(names)
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
