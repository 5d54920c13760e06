"""Group runs into settings: one choice with all its seeds, named by its differences from the other settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.config.identity import NOT_IDENTITY
from gmu_lightning.movie import UNKNOWN
from gmu_lightning.report import splits
from gmu_lightning.report.search import searched_keys
from gmu_lightning.run import Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged

COMPARED_SCORES = ("test/f1_micro", "test/ap_micro", "val/ap_micro")  # equal in two results of the same run
UNFINISHED = ("failed", "interrupted")  # states of runs that ended without scores
ALWAYS = ("modalities", "fusion")  # part of every setting's values
OLDER = {"training": "none"}  # choices of older runs, whose configurations lack the group
FEWEST_SEEDS = 3  # with two, intervals are too short and false findings too frequent


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, or in seed and split if some setting of the comparison has several splits.

    Attributes:
        key: hash of the setting, shared by its runs. It includes the split unless `splits` is given.
        values: {key that varies between the settings: its value as text, None if it does not apply}; `ALWAYS` first.
        name: unique among the compared settings. Searched values are shortened to `tuned` if the name stays unique.
        runs: finished, failed and interrupted runs, by seed.
        configs: their configurations, in the order of `runs`.
        finished, of_finished: the finished runs, by seed, and their configurations.
        notes: warnings about several runs.
        splits: {name of the split: the setting of its runs alone}; empty if no setting of the comparison has several splits.
    """

    key: str
    values: Mapping[str, str | None]
    name: str
    runs: Sequence[Run]
    configs: Sequence[Mapping[str, Any]]
    finished: Sequence[Run]
    of_finished: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    splits: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def seeds(self) -> list[str]:
        """Seeds of the finished runs as text, in the order of `finished`; each once if there are several splits."""
        found = [str(config["seed"]) for config in self.of_finished]
        return list(dict.fromkeys(found)) if self.splits else found

    @property
    def parts(self) -> Sequence[Setting]:
        """The settings of its splits; itself alone without splits."""
        return list(self.splits.values()) or [self]

    @property
    def is_adopted(self) -> bool:
        """Whether the predictions were made elsewhere."""
        return records.is_adopted(self.configs[0])

    @cached_property
    def warnings(self) -> list[str]:
        """Each distinct warning once, in its first seed's words, with its number of seeds. Failures count as warnings."""
        return [*self.notes, *_warnings(self.runs, [part.runs for part in self.parts])]


def settings_of(runs: Iterable[Run]) -> list[Setting]:
    """Return the settings of these runs, each with its finished, failed and interrupted runs; others are left out.

    Two runs of one identity and the same data count once. If a setting has finished runs on several splits, its runs on all
    splits are one setting, and so are those of every other setting. Raises UserError if a file of a run is damaged.
    """
    grouped: dict[str, list[_Distinct]] = {}
    distinct = _distinct(runs)
    merged = _over_splits(distinct)
    for one in distinct:
        grouped.setdefault(merged.get(one.setting, one.setting), []).append(one)
    if merged:
        grouped = {key: sorted(_once(group), key=lambda one: splits.order(one.split)) for key, group in grouped.items()}
    of_runs = {key: [one.run for one in group] for key, group in grouped.items()}
    configs = {key: group[0].config for key, group in grouped.items()}
    varying = _varying([run for group in of_runs.values() for run in group], configs, splits.KEYS if merged else ())
    values = {key: {name: value_of(config, name) for name in (*ALWAYS, *varying)} for key, config in configs.items()}
    same_modalities = len({value["modalities"] for value in values.values()}) == 1
    whole = {key: _name(value, same_modalities) for key, value in values.items()}
    short = {key: _name(value, same_modalities, searched_keys(of_runs[key])) for key, value in values.items()}
    counts = Counter(short.values())
    names = {key: short[key] if counts[short[key]] == 1 else whole[key] for key in grouped}
    shared, other_movies = Counter(names.values()), _of_other_movies(grouped, bool(merged))
    found = []
    for key, group in grouped.items():
        name = names[key] if shared[names[key]] == 1 else f"{names[key]} ({key[:6]})"
        whole_setting = _setting(key, values[key], name, group, other_movies.get(key, ()))
        by_split: dict[str, list[_Distinct]] = {}
        for one in group if merged else ():
            by_split.setdefault(one.split, []).append(one)
        parts = {split: _setting(part[0].setting, values[key], name, part) for split, part in by_split.items()}
        found.append(replace(whole_setting, splits=parts))
    return found


def _setting(
    key: str, values: Mapping[str, str | None], name: str, group: Sequence[_Distinct], also: Sequence[str] = ()
) -> Setting:
    """Return the setting of these runs; `also` are further notes."""
    notes = [*(note for one in group for note in one.notes), *also]
    done = [one for one in group if one.finished]
    every, scored = [one.config for one in group], [one.config for one in done]
    return Setting(key, values, name, [one.run for one in group], every, [one.run for one in done], scored, notes)


def ended_as(state: str, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (folder name, reason) of the runs in a state. The skipped jobs of their sweeps have no folder, and follow."""
    found = [(run.folder.name, str(status["why"])) for run in runs if (status := run.status).get("state") == state]
    if state == "skipped":
        found += skipped_in(dict.fromkeys(run.folder.absolute().parent for run in runs))
    return found


def skipped_in(sweeps: Iterable[Path]) -> list[tuple[str, str]]:
    """Return (overrides, reason) of each skipped job without a folder, as the sweeps' status.json list them.

    The seed, and overrides that all jobs of the sweep share, are left out.
    """
    found = []
    for sweep in sweeps:
        jobs = jobs_of(sweep)
        shared = set.intersection(*(set(job.get("overrides", [])) for job in jobs)) if len(jobs) > 1 else set()
        for job in without_folder(jobs):
            words = [word for word in job["overrides"] if word not in shared and not is_seed(word)]
            found.append((" ".join(words), str(job["why"])))
    return found


def jobs_of(sweep: Path) -> list[dict[str, Any]]:
    """Return the jobs in a sweep's status.json; none if the file is missing or damaged."""
    with suppress(Damaged):
        jobs: list[dict[str, Any]] = records.none_if_gone(records.sweep_status, sweep / "status.json", {}).get("jobs", [])
        return jobs
    return []


def without_folder(jobs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the skipped ones of a sweep's jobs, which have no folder, each with its overrides and the reason."""
    return [
        {"folder": None, "overrides": list(job.get("overrides", [])), "state": "skipped", "why": job.get("why")}
        for job in jobs
        if job.get("state") == "skipped" and job.get("folder") is None
    ]


def is_seed(override: str) -> bool:
    """Return whether an override sets the seed."""
    return override.lstrip("+").startswith("seed=")


def by_reason(jobs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return {reason: names} of (name, reason)."""
    found: dict[str, list[str]] = {}
    for name, why in jobs:
        found.setdefault(why, []).append(name)
    return found


def invalid(skipped: int, jobs: int) -> str:
    """Return a clause on the skipped jobs among all jobs of a sweep."""
    return f"{skipped} of {jobs} combinations {'is' if skipped == 1 else 'are'} invalid and left out"


def few_seeds(seeds: Iterable[Collection[Any]]) -> str | None:
    """Return a caution if a setting has fewer than three seeds; None otherwise.

    Args:
        seeds: those of each setting.
    """
    fewest = min(map(len, seeds), default=FEWEST_SEEDS)
    if fewest >= FEWEST_SEEDS:
        return None
    many = "one seed" if fewest == 1 else f"{fewest} seeds"
    return f"with {many} of a setting no difference can be claimed: three are the least, such as seed=1,2,3"


def value_of(config: Mapping[str, Any], key: str) -> str | None:
    """Return the value of an override's key as text; None if the configuration lacks this encoder or option.

    Of adopted predictions, it is None for every key that they lack.
    """
    words = key.replace("/", ".").split(".")
    if words[0] == "encoder" and words[1:] and words[1] not in str(config["modalities"]).split("+"):
        return None
    node = (config.get("choices") or {}).get(key, OLDER.get(key))
    if node is None:
        node = config
        for word in key.split("."):
            if words[0] in ("fusion", "training") and isinstance(node, Mapping) and word not in node:
                return None
            node = node.get(word) if isinstance(node, Mapping) else None
    if node is None and records.is_adopted(config):
        return None
    if isinstance(node, Mapping):  # a group of unknown choice
        return str(node.get("_target_", "")).rpartition(".")[2] or None
    return node if isinstance(node, str) else json.dumps(node)


def _name(values: Mapping[str, str | None], same_modalities: bool, tuned: Collection[str] = ()) -> str:
    words = [str(values["fusion"] or "fusion")]
    if not same_modalities and values["modalities"] != UNKNOWN:
        words.append(str(values["modalities"]))
    words += [f"{key}={value}" for key, value in values.items() if key not in (*ALWAYS, *tuned) and value is not None]
    words += ["tuned"] if tuned else []
    return " ".join(words)


class _Distinct(NamedTuple):
    """A counted run, with notes on the equal runs that it replaces."""

    setting: str
    run: Run
    config: Mapping[str, Any]
    finished: bool
    notes: list[str]

    @property
    def split(self) -> str:
        """Name of the run's split."""
        return splits.split_of(self.config)


def _over_splits(runs: Sequence[_Distinct]) -> dict[str, str]:
    """Return {setting: its hash without the split} if a setting has finished runs on several splits; {} otherwise."""
    if len({one.split for one in runs if one.finished}) < 2:
        return {}
    configs = {one.setting: one.config for one in runs}
    keys = {key: splits.without_split(config) for key, config in configs.items()}
    found = Counter(key for key, _ in {(keys[one.setting], one.split) for one in runs if one.finished})
    return keys if max(found.values()) > 1 else {}


def _distinct(runs: Iterable[Run]) -> list[_Distinct]:
    """Return the runs that finished, failed or were interrupted, by seed.

    Of runs with the same identity and data, keep the first finished one, or else the first.
    """
    ended = [(run, status) for run in runs if (status := run.status).get("state") in ("finished", *UNFINISHED)]
    ended.sort(key=lambda pair: ("finished", *UNFINISHED).index(pair[1]["state"]))
    kept: dict[str, list[_Distinct]] = {}
    for run, status in ended:
        before = kept.setdefault(status["identity"], [])
        same_data = [one for one in before if not disagreeing(run.data_fingerprint, one.run.data_fingerprint)]
        done = status["state"] == "finished"
        if before and not done:
            continue
        if not same_data:
            before.append(_Distinct(status["setting"], run, _checked(run, done), done, []))
        elif any(run.metrics.get(score) != same_data[0].run.metrics.get(score) for score in COMPARED_SCORES):
            first = same_data[0].run.folder
            same_data[0].notes.append(f"two_results: {run.folder} is the same run as {first} with other scores, and is left out")
    found = [one for of_one in kept.values() for one in of_one]
    return sorted(found, key=lambda one: (len(str(one.config["seed"])), str(one.config["seed"])))


def _once(runs: Sequence[_Distinct]) -> list[_Distinct]:
    """Return a setting's runs with each seed once on a split. The published split is the same for every `split_seed`."""
    kept: dict[tuple[str, str], list[_Distinct]] = {}
    for one in runs:
        before = kept.setdefault((one.split, str(one.config["seed"])), [])
        if all(disagreeing(one.run.data_fingerprint, other.run.data_fingerprint) for other in before):
            before.append(one)
    return [one for group in kept.values() for one in group]


def _checked(run: Run, finished: bool) -> Mapping[str, Any]:
    config = run.config
    if finished:
        records.check_config(config, run / "config.yaml", records.FINISHED)
    return {"seed": "none", "modalities": "none", **config}  # a run that failed may lack them


def _of_other_movies(settings: Mapping[str, Sequence[_Distinct]], over_splits: bool) -> dict[str, list[str]]:
    """Return {setting: warnings} for settings with other movies than the majority; for all settings without a majority.

    Only settings with the same share of train are compared, and if `over_splits`, only runs of the same split.
    """
    seen: dict[tuple[str, float], dict[str, str | None]] = {}
    for key, runs in settings.items():
        for one in runs:
            share = splits.amounts(one.config)[splits.SHARE]
            group = seen.setdefault((one.split if over_splits else "", share), {})
            group[key] = group.get(key) or one.run.data_fingerprint.get("movies")
    found: dict[str, list[str]] = {}
    words = "other_data: it saw other movies, splits or labels than"
    for (split, _), of_settings in seen.items():
        where = f" on the split {split}" if split else ""
        counts = Counter(movies for movies in of_settings.values() if movies).most_common()
        tied = len(counts) > 1 and counts[0][1] == counts[1][1]
        for key, movies in of_settings.items():
            if len(counts) > 1 and movies and (tied or movies != counts[0][0]):
                found.setdefault(key, []).append(f"{words} {'others here' if tied else 'most settings here'}{where}")
    return found


def _varying(runs: Sequence[Run], configs: Mapping[str, Mapping[str, Any]], left_out: Collection[str]) -> list[str]:
    typed = dict.fromkeys(re.split("[=@]", override)[0].lstrip("+~") for run in runs for override in run.overrides)
    differs = [key for key in typed if len({value_of(config, key) for config in configs.values()} - {None}) > 1]
    return [key for key in differs if key not in (*ALWAYS, "seed", "sweep", *left_out) and not _is_outside_the_setting(key)]


def _is_outside_the_setting(key: str) -> bool:
    name = key.replace("/", ".")
    return any(name == outside or name.startswith(f"{outside}.") for outside in NOT_IDENTITY)


def _warnings(runs: Sequence[Run], by_split: Sequence[Sequence[Run]]) -> Iterator[str]:
    sentences: dict[str, str] = {}
    counts: Counter[str] = Counter()
    prints = ([run.data_fingerprint for run in of_split] for of_split in by_split)
    if any(disagreeing(a, b) for of_split in prints for a, b in combinations(of_split, 2)):
        yield "mixed_data: the seeds of this setting did not see the same data, so their mean means nothing"
    for run in runs:
        state, why = run.status["state"], run.status["why"]
        failure = [f"failed: {why}"] if state == "failed" else [str(why)] if state in UNFINISHED else []
        for sentence in (*run.status["warnings"], *failure):
            but_for_numbers = re.sub(r"\d+", "#", sentence)
            sentences.setdefault(but_for_numbers, sentence.replace("; ", ", "))  # "; " parts one from the next
            counts[but_for_numbers] += 1
    for but_for_numbers, sentence in sentences.items():
        noun = "seeds" if len(by_split) == 1 else "runs"
        yield f"{sentence} ({counts[but_for_numbers]} of {len(runs)} {noun})" if len(runs) > 1 else sentence
