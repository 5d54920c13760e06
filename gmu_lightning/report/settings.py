"""Runs -> settings: what is compared is a choice with all its seeds, named by what sets it apart."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

from gmu_lightning.report.search import searched_keys
from gmu_lightning.run import NOT_IDENTITY, Run, disagreeing
from gmu_lightning.run_files import records

TELLING = ("test/f1_micro", "test/ap_micro", "val/ap_micro")  # scores that two equal runs have in common
UNFINISHED = ("failed", "interrupted")  # states of runs that ended without scores
ALWAYS = ("modalities", "fusion")  # said of every setting, even where they are the same in all


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes:
        key: the hash that runs of one setting share.
        values: {what varies between the settings: its value here, as text, None where it says nothing}; `ALWAYS` first.
        name: unique among the settings compared. What a search chose is in `values` alone where the name does without: `tuned`.
        runs: finished and failed ones, one per seed.
        configs: of these runs.
        notes: warnings that no run alone has.
    """

    key: str
    values: Mapping[str, str | None]
    name: str
    runs: Sequence[Run]
    configs: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()

    @cached_property
    def _states(self) -> list[bool]:
        return [run.status["state"] == "finished" for run in self.runs]

    @property
    def finished(self) -> list[Run]:
        """The runs that have scores, by seed."""
        return [run for run, done in zip(self.runs, self._states, strict=True) if done]

    @property
    def of_finished(self) -> list[Mapping[str, Any]]:
        """The configurations of the finished runs."""
        return [config for config, done in zip(self.configs, self._states, strict=True) if done]

    @property
    def seeds(self) -> list[str]:
        """Of the finished runs."""
        return [str(config["seed"]) for config in self.of_finished]

    @cached_property
    def warnings(self) -> list[str]:
        """Each warning once, as its first seed words it, with how many seeds it stands for; a failed seed is one too."""
        return [*self.notes, *_warnings(self.runs)]


def settings_of(runs: Iterable[Run]) -> list[Setting]:
    """The settings of these runs. Two runs of one identity count once; skipped and unended ones do not count."""
    grouped: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    notes: dict[str, list[str]] = {}
    for one in _distinct(runs):
        grouped.setdefault(one.setting, []).append((one.run, one.config))
        notes.setdefault(one.setting, []).extend(one.notes)
    for key, warning in _of_other_movies({key: [run for run, _ in of_one] for key, of_one in grouped.items()}).items():
        notes[key].append(warning)
    configs = {key: of_one[0][1] for key, of_one in grouped.items()}
    varying = _varying([run for of_one in grouped.values() for run, _ in of_one], configs)
    values = {key: {name: value_of(config, name) for name in (*ALWAYS, *varying)} for key, config in configs.items()}
    same_modalities = len({value["modalities"] for value in values.values()}) == 1
    whole = {key: _name(value, same_modalities) for key, value in values.items()}
    tuned = {key: searched_keys([run for run, _ in of_one]) for key, of_one in grouped.items()}
    short = {key: _name(value, same_modalities, tuned[key]) for key, value in values.items()}
    counts = Counter(short.values())
    names = {key: short[key] if counts[short[key]] == 1 else whole[key] for key in grouped}
    shared = Counter(names.values())
    found = []
    for key, of_one in grouped.items():
        name = names[key] if shared[names[key]] == 1 else f"{names[key]} ({key[:6]})"
        found.append(Setting(key, values[key], name, [run for run, _ in of_one], [config for _, config in of_one], notes[key]))
    return found


def value_of(config: Mapping[str, Any], key: str) -> str | None:
    """What a configuration says of an override's key, as text; None where it has no such encoder, or its fusion no such
    option."""
    words = key.replace("/", ".").split(".")
    if words[0] == "encoder" and words[1:] and words[1] not in str(config["modalities"]).split("+"):
        return None
    node = (config.get("choices") or {}).get(key)
    if node is None:
        node = config
        for word in key.split("."):
            if words[0] == "fusion" and isinstance(node, Mapping) and word not in node:
                return None
            node = node.get(word) if isinstance(node, Mapping) else None
    if isinstance(node, Mapping):  # a group whose choice is not known
        return str(node.get("_target_", "")).rpartition(".")[2] or None
    return node if isinstance(node, str) else json.dumps(node)


def _name(values: Mapping[str, str | None], same_modalities: bool, tuned: Collection[str] = ()) -> str:
    words = [str(values["fusion"] or "fusion")]
    if not same_modalities:
        words.append(str(values["modalities"]))
    words += [f"{key}={value}" for key, value in values.items() if key not in (*ALWAYS, *tuned) and value is not None]
    words += ["tuned"] if tuned else []
    return " ".join(words)


class _Distinct(NamedTuple):
    """A run that counts, and what is to be said of those that it stands for."""

    setting: str
    run: Run
    config: Mapping[str, Any]
    notes: list[str]


def _distinct(runs: Iterable[Run]) -> list[_Distinct]:
    """Return the runs that finished, failed or were interrupted, by seed.

    Of those with one identity and the same data, keep the first that finished; of those that never finished, the first.
    """
    ended = [(run, status) for run in runs if (status := run.status).get("state") in ("finished", *UNFINISHED)]
    ended.sort(key=lambda pair: ("finished", *UNFINISHED).index(pair[1]["state"]))
    kept: dict[str, list[_Distinct]] = {}
    for run, status in ended:
        before = kept.setdefault(status["identity"], [])
        same_data = [one for one in before if not disagreeing(run.data_fingerprint, one.run.data_fingerprint)]
        if status["state"] in UNFINISHED and before:
            continue
        if not same_data:
            before.append(_Distinct(status["setting"], run, _checked(run), []))
        elif any(run.metrics.get(score) != same_data[0].run.metrics.get(score) for score in TELLING):
            first = same_data[0].run.folder
            same_data[0].notes.append(f"two_results: {run.folder} is the same run as {first} with other scores, and is left out")
    found = [one for of_one in kept.values() for one in of_one]
    return sorted(found, key=lambda one: (len(str(one.config["seed"])), str(one.config["seed"])))


def _checked(run: Run) -> Mapping[str, Any]:
    config = run.config
    if run.status["state"] == "finished":
        records.check_finished_config(config, run / "config.yaml")
    return {"seed": "none", "modalities": "none", **config}  # a run that failed may lack them


def _of_other_movies(runs: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """{setting: a warning} of those whose runs saw other movies than most settings' did; of all where none are most."""
    seen = {key: next((f for run in of_one if (f := run.data_fingerprint.get("movies"))), None) for key, of_one in runs.items()}
    counts = Counter(found for found in seen.values() if found).most_common()
    if len(counts) < 2:
        return {}
    words = "other_data: it saw other movies, splits or labels than"
    if counts[0][1] == counts[1][1]:
        return {key: f"{words} others here" for key, found in seen.items() if found}
    return {key: f"{words} most settings here" for key, found in seen.items() if found not in (None, counts[0][0])}


def _varying(runs: Sequence[Run], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    typed = dict.fromkeys(re.split("[=@]", override)[0].lstrip("+~") for run in runs for override in run.overrides)
    differs = [key for key in typed if len({value_of(config, key) for config in configs.values()} - {None}) > 1]
    return [key for key in differs if key not in (*ALWAYS, "seed", "sweep") and not _is_beside_the_setting(key)]


def _is_beside_the_setting(key: str) -> bool:
    name = key.replace("/", ".")
    return any(name == outside or name.startswith(f"{outside}.") for outside in NOT_IDENTITY)


def _warnings(runs: Sequence[Run]) -> Iterator[str]:
    sentences: dict[str, str] = {}
    counts: Counter[str] = Counter()
    if any(disagreeing(a, b) for a, b in combinations([run.data_fingerprint for run in runs], 2)):
        yield "mixed_data: the seeds of this setting did not see the same data, so their mean means nothing"
    for run in runs:
        state, why = run.status["state"], run.status["why"]
        failure = [f"failed: {why}"] if state == "failed" else [str(why)] if state in UNFINISHED else []
        for sentence in (*run.status["warnings"], *failure):
            but_for_numbers = re.sub(r"\d+", "#", sentence)
            sentences.setdefault(but_for_numbers, sentence.replace("; ", ", "))  # "; " parts one from the next
            counts[but_for_numbers] += 1
    for but_for_numbers, sentence in sentences.items():
        yield f"{sentence} ({counts[but_for_numbers]} of {len(runs)} seeds)" if len(runs) > 1 else sentence
