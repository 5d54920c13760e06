"""Checks of the files that a comparison's runs left: what they prove about test, splits, missing modalities and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.report.caveats import computed_by, listed, shortened
from gmu_lightning.report.checklist.found import NO_FUSION, Doubts, Found, again, all_seeds, fusing, span, trained
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.diagnosis import newest
from gmu_lightning.report.reproduce import evaluations, train_all
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.splits import KEYS, split_of
from gmu_lightning.report.words import counted
from gmu_lightning.run import Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged, is_there
from gmu_lightning.run_files.shapes import is_number

MONITOR = "val/ap_micro"  # of the command that trains again
TOLERANCE = 1e-9  # of a score that is read back from a file
FEWEST_SPLITS = 2
SHARES = "0.7/0.1/0.2"  # of train, val and test, for a table of one's own
PLACES = ("root", "workers")  # options of the data without influence on its content
Environments = Mapping[Path, Mapping[str, Any]]  # of each run's folder


def _runs(settings: Sequence[ScoredSetting]) -> list[tuple[ScoredSetting, Run, Mapping[str, Any]]]:
    """Return (setting, run, configuration of the run) of every finished run."""
    return [
        (one, run, config) for one in settings for run, config in zip(one.setting.finished, one.setting.of_finished, strict=True)
    ]


def test_once(settings: Sequence[ScoredSetting]) -> Found:
    """Check that val alone chose the weights of every run, so that test was read once, at the end."""
    doubts = Doubts()
    for one, run, config in _runs(settings):
        if found := _doubt(run, config):
            doubts.add(found[1], found[0], one)
    if doubts.proof is None:
        why = "Each best.ckpt is of the epoch that is best on val in history.csv, which holds no test score"
        return Found(True, settings[0].setting.finished[0] / "history.csv", why)
    return Found(False, doubts.proof, f"This is not proved: {doubts.why}", doubts.again([f"monitor={MONITOR}"]))


def _doubt(run: Run, config: Mapping[str, Any]) -> tuple[Path, str] | None:
    """Return a file and the reason why it does not prove that val chose the weights; None if all files prove it."""
    if records.is_adopted(config):
        return run / "config.yaml", "the predictions were made elsewhere"
    monitor = str(config.get("monitor"))
    if not monitor.startswith("val/"):
        return run / "config.yaml", f"monitor={monitor} is no score of val"
    rows = run.history
    if not rows:
        return run.folder, "there is no history.csv"
    if any(key.startswith("test/") for key in rows[0]):
        return run / "history.csv", "history.csv holds scores of test"
    scored = [(int(row["epoch"]), float(row[monitor])) for row in rows if row.get(monitor)]
    best = run.metrics.get("best_epoch")
    reached = max((value for epoch, value in scored if epoch == best), default=None)
    if reached is None or reached < max(value for _, value in scored) - TOLERANCE:
        return run / "history.csv", f"best.ckpt is of epoch {best}, which is not the best by {monitor}"
    return None


class _Ran(NamedTuple):
    """A run of a setting on a split, as words, with the hash of its movies, their splits and labels."""

    one: ScoredSetting
    run: Run
    split: str
    movies: str | None


def splits(settings: Sequence[ScoredSetting], environments: Environments) -> Found:
    """Check that every setting ran on several splits, which hold other movies."""
    ran: dict[tuple[Any, ...], list[_Ran]] = {}
    for one, run, config in _runs(settings):
        setting = tuple((name, value) for name, value in one.setting.values.items() if name not in KEYS)
        movies = _fingerprint(environments[run.folder]).get("movies")
        ran.setdefault(setting, []).append(_Ran(one, run, split_of(config), movies))
    counts = [min(len({of.split for of in found}), len({of.movies for of in found})) for found in ran.values()]
    lacking = [of for found, count in zip(ran.values(), counts, strict=True) if count < FEWEST_SPLITS for of in found]
    if not lacking:
        return Found(True, next(iter(ran.values()))[-1].run / "config.yaml", f"{span(counts)} splits for every setting")
    own = list({of.one.name: of.one for of in lacking}.values())
    narrow = [one.setting for one in trained(own)]
    command = train_all(narrow, all_seeds(narrow), _other_splits(own[0].config), KEYS, into_sweeps=True)
    few, words = sum(count < FEWEST_SPLITS for count in counts), shortened(list(dict.fromkeys(of.split for of in lacking)))
    why = f"{few} of {counted(len(counts), 'setting')}: one split only ({words})"
    return Found(False, lacking[0].run / "config.yaml", why, command)


def _other_splits(config: Mapping[str, Any]) -> list[str]:
    return [f"data.split={SHARES if _data_set(config) == 'files' else 'random'}", "data.split_seed=1,2,3,4,5"]


def _data_set(config: Mapping[str, Any]) -> str:
    return str((config.get("choices") or {}).get("data"))


def _fingerprint(environment: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = environment.get("data_fingerprint") or {}
    return found


def missing(settings: Sequence[ScoredSetting]) -> Found:
    """Check that every setting states its movies without a modality: in training, or in a study of its test movies."""
    several = fusing(settings)
    if not several:
        return Found(True, settings[0].setting.finished[0] / "config.yaml", NO_FUSION)
    stated = {one.name: next(filter(None, (_protocol(run, config) for _, run, config in _runs([one]))), None) for one in several}
    lacking = [one for one in several if stated[one.name] is None]
    known = [found for found in stated.values() if found is not None]
    if not lacking:
        return Found(True, known[0][0], "; ".join(dict.fromkeys(words for _, words in known)))
    why = f"Neither data.missing nor a study of missing modalities: {shortened([one.name for one in lacking])}"
    command = evaluations([one.setting.finished[0] for one in trained(lacking)], "robustness=true")
    return Found(False, lacking[0].setting.finished[0] / "config.yaml", why, command)


def _protocol(run: Run, config: Mapping[str, Any]) -> tuple[Path, str] | None:
    """Return the file with a run's protocol for missing modalities, and the protocol in words; None without one."""
    chosen = (config.get("data") or {}).get("missing")
    chosen = chosen if isinstance(chosen, Mapping) else {}
    if rates := {m: rate for m, rate in chosen.items() if m not in ("splits", "seed") and is_number(rate) and rate > 0}:
        words = ", ".join(f"{m} {rate:g}" for m, rate in rates.items())
        path = run / "missing.json" if is_there(run / "missing.json") else run / "config.yaml"
        where = chosen.get("splits")
        places = f" in {listed(list(map(str, where)))}" if isinstance(where, list) and where else ""
        return path, f"data.missing: {words}{places}"
    for path in sorted((run / "evaluate").glob("*/robustness.json"), reverse=True):
        with suppress(Damaged):  # the comparison reports it as left out
            if records.robustness(path)["split"] == "test":
                return path, "Studies of every share and subset of missing modalities"
    return None


def diagnosed(comparison: Comparison) -> Found:
    """Check that every run whose gates move has a diagnosis that can be read."""
    gated = [of for of in comparison.diagnoses if of.one.gates_move]
    if not gated:
        first = comparison.settings[0].setting.finished[0]
        return Found(True, first / "predictions/test.parquet", "No setting has gates that move")
    runs = sum({of.one.name: len(of.one.test) for of in gated}.values())
    lacking = [of for of in gated if of.others]
    if not lacking:
        first = gated[0].one.setting.finished[0]
        return Found(True, newest(first) or first.folder, f"A diagnosis of each of {counted(runs, 'gated run')}")
    others = [run for of in lacking for run in of.others]
    names = shortened([of.one.name for of in lacking])
    why = f"{len(others)} of {counted(runs, 'gated run')} without a readable diagnosis ({names})"
    return Found(False, others[0].folder, why, evaluations(others, "diagnose=true"))


def versions(settings: Sequence[ScoredSetting], environments: Environments) -> Found:
    """Check that the versions of code, packages and data are recorded, and the same in all runs."""
    doubts, known = Doubts(), dict[str, dict[str, str]]()  # known: fingerprint of each configuration of the data
    for one, run, config in _runs(settings):
        environment, path = environments[run.folder], run / "environment.json"
        if not (environment.get("git_commit") or (environment.get("packages") or {}).get("gmu-lightning")):
            doubts.add("no version of the code", path, one)
        if not (own := _fingerprint(environment)):
            doubts.add("no fingerprint of the data", path, one)
        before = known.setdefault(_data_of(config), {})
        if parts := disagreeing(own, before):
            doubts.add(f"other data in {listed(parts)}", path, one)
        before.update({key: value for key, value in own.items() if key not in before})
    first = settings[0].setting.finished[0] / "environment.json"
    mixed = [
        f"{name} " + ", ".join(f"{value} in {count}" for value, count in counts.most_common())
        for name, counts in computed_by(environments.values()).items()
        if len(counts) > 1 and name != "device"
    ]
    if doubts.proof is None and not mixed:
        return Found(True, first, f"The same packages, commit and data in {counted(len(environments), 'run')}")
    command = again(settings)
    return Found(
        False, doubts.proof or first, f"Unequal or not recorded: {'; '.join(filter(None, [doubts.why, *mixed]))}", command
    )


def _data_of(config: Mapping[str, Any]) -> str:
    """Return the options that decide which data a run reads, as text."""
    chosen = {key: value for key, value in (config.get("data") or {}).items() if key not in PLACES}
    return json.dumps(chosen, sort_keys=True, default=str)
