"""Score against an amount of data: one curve per setting over shares of train, or over rates of a missing modality."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmu_lightning.config.identity import setting
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.splits import KEYS, MISSING, SHARE, amounts
from gmu_lightning.report.statistics import Interval

FAR = 4.0  # ratio of the largest to the smallest value of a logarithmic axis


@dataclass(frozen=True)
class Point:
    """The setting of a curve at one value of the option."""

    value: float
    setting: ScoredSetting


@dataclass(frozen=True)
class Curve:
    """Settings that differ in one amount of data alone.

    Attributes:
        option: `data.train_share`, or `data.missing.<modality>`.
        name: of the setting, without the option.
        points: by rising value, at least two.
    """

    option: str
    name: str
    points: Sequence[Point]

    def intervals(self, metric: str) -> list[Interval]:
        """Return the mean score of each point with its interval."""
        return [point.setting.scored(metric).interval for point in self.points]


def curves_of(settings: Sequence[ScoredSetting]) -> list[Curve]:
    """Return the curves among these settings, the options one after the other, in the order of the settings."""
    at = {one.name: amounts(one.config) for one in settings}
    rates = dict.fromkeys(option for own in at.values() for option in own if option != SHARE)
    found = []
    for option in (SHARE, *rates):
        groups: dict[str, dict[float, ScoredSetting]] = {}
        for one in settings:
            for key in _groups(one, option, settings):
                group = groups.setdefault(key, {})
                if all(one.tested_as(other) for other in group.values()):
                    group.setdefault(at[one.name].get(option, 0.0), one)
        several = [sorted(group.items()) for group in groups.values() if len(group) > 1]
        names = [_name(group, option) for group in several]
        found += [
            Curve(option, name if names.count(name) == 1 else group[-1][1].name, [Point(*point) for point in group])
            for name, group in zip(names, several, strict=True)
        ]
    return found


def _groups(one: ScoredSetting, option: str, settings: Sequence[ScoredSetting]) -> list[str]:
    """Return the keys of a setting's curves; the settings of a curve have the same key.

    A setting that loses no modality has no `splits` and `seed` of lost ones. It begins the curves of all of them.
    """
    rest = {name: value for name, value in amounts(one.config).items() if name != option}
    protocols = [_protocol(one.config)]
    if protocols == [None] and option != SHARE:
        protocols = [_protocol(other.config) for other in settings if option in amounts(other.config)]
    own = [_without_amounts(one), list(one.splits), rest]
    return list(dict.fromkeys(json.dumps([*own, protocol], sort_keys=True) for protocol in protocols))


def _without_amounts(one: ScoredSetting) -> str:
    """Return the hash of a setting without its amounts of data, and without its split if it has several."""
    left_out = ["missing", "train_share", *(key.partition(".")[2] for key in KEYS if one.splits)]
    return setting({**one.config, "data": {k: v for k, v in one.config["data"].items() if k not in left_out}})


def _protocol(config: Mapping[str, Any]) -> list[Any] | None:
    """Return the splits that lose modalities and the seed of the draw; None if none is lost."""
    if list(amounts(config)) == [SHARE]:
        return None
    missing = config["data"]["missing"]
    return [list(missing.get("splits") or ()), missing.get("seed")]


def _name(points: Sequence[tuple[float, ScoredSetting]], option: str) -> str:
    """Return the last point's name without the option."""
    one = points[-1][1]
    return one.name.replace(f" {option}={one.setting.values.get(option)}", "")


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether rising values are so far apart that an axis shows their logarithms."""
    return values[0] > 0 and values[-1] > FAR * values[0]


def label(option: str) -> str:
    """Return an option in words: `share of train`, or `share of movies without image`."""
    if option == SHARE:
        return "share of train"
    return f"share of movies without {option.removeprefix(f'{MISSING}.')}"


def other_amounts(a: ScoredSetting, b: ScoredSetting) -> list[str]:
    """Return the options in which two settings have different amounts of data."""
    one, other = amounts(a.config), amounts(b.config)
    return [option for option in {**one, **other} if one.get(option, 0.0) != other.get(option, 0.0)]


def why_apart(a: ScoredSetting, b: ScoredSetting) -> str | None:
    """Return the reason why settings with different amounts of data are not compared; None if the amounts are equal."""
    one, other = amounts(a.config), amounts(b.config)
    parts = [f"{o} is {one.get(o, 0.0):g} in one and {other.get(o, 0.0):g} in the other" for o in other_amounts(a, b)]
    return f"{' and '.join(parts)}, so their difference answers another question" if parts else None


def by_amounts(settings: Sequence[ScoredSetting]) -> dict[str, list[ScoredSetting]]:
    """Return {amounts of data that vary, such as `data.train_share=0.3`: settings with them}, by rising amounts.

    There is one entry, with the key "", if all amounts are equal.
    """
    own = {one.name: amounts(one.config) for one in settings}
    options = [o for o in dict.fromkeys(o for of in own.values() for o in of) if len({of.get(o, 0.0) for of in own.values()}) > 1]
    found: dict[tuple[float, ...], list[ScoredSetting]] = {}
    for one in settings:
        found.setdefault(tuple(own[one.name].get(option, 0.0) for option in options), []).append(one)
    words = (", ".join(f"{o}={value:g}" for o, value in zip(options, values, strict=True)) for values in sorted(found))
    return dict(zip(words, (found[values] for values in sorted(found)), strict=True))
