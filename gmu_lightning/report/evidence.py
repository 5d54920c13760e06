"""Runs' predictions -> scores with what each movie adds to them, and which settings may be compared at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np

from gmu_lightning.metrics import tune_per_genre, tune_threshold
from gmu_lightning.movie import UserError
from gmu_lightning.report.inference import FEWEST_MOVIES, FEWEST_SEEDS, Scored
from gmu_lightning.report.influence import KINDS, influence
from gmu_lightning.report.leaderboard import metrics_of
from gmu_lightning.report.settings import Setting
from gmu_lightning.report.thresholds import retuned
from gmu_lightning.run import Predictions, Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.content import Damaged

TUNED: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {"val": tune_threshold, "val_per_genre": tune_per_genre}
PLAIN = 0.5  # the threshold of metrics.json's plain keys
AGREE = 1e-6
MATTERS = ("label_policy", "limit", "seed", "plot", "absent", "layout")  # of `data`: what may make one data set two
WORDS = {
    **{f"f1_{over}": f"{over} F1" for over in ("micro", "macro", "weighted", "samples")},
    **{f"ap_{over}": f"{over} AP" for over in ("micro", "macro", "samples")},
}


def checked_metric(metric: str) -> str:
    """`f1_micro`, `ap_macro`, `f1_micro@val`, ... Raises UserError."""
    kind, _, rule = metric.partition("@")
    if kind not in KINDS or (rule and (rule not in TUNED or kind.startswith("ap_"))):
        rules = " or ".join(f"@{name}" for name in TUNED)
        raise UserError(f"metric={metric} is no score: choose one of {', '.join(KINDS)}, an F1 also with {rules}")
    return metric


def said(metric: str) -> str:
    """`micro F1 at a threshold tuned on val`"""
    kind, _, rule = metric.partition("@")
    tuned = {"": "", "val": " at a threshold tuned on val", "val_per_genre": " at thresholds tuned on val per genre"}[rule]
    return WORDS[kind] + tuned


@dataclass(frozen=True)
class Evidence:
    """A setting with what its finished runs said of a split."""

    setting: Setting
    test: Sequence[Predictions]
    val: Sequence[Predictions]

    @classmethod
    def of(cls, setting: Setting) -> Evidence:
        """Read from the runs' files. Raises UserError, which names the run, where they cannot be."""
        return cls(setting, [read(run, "test") for run in setting.finished], [read(run, "val") for run in setting.finished])

    @property
    def name(self) -> str:
        """The setting's."""
        return self.setting.name

    @cached_property
    def _known(self) -> dict[tuple[str, str], Scored]:
        return {}

    def scored(self, metric: str, split: str = "test") -> Scored:
        """Scores of every run on a split, at .5 or at what was tuned on val alone."""
        if (metric, split) not in self._known:
            kind, _, rule = metric.partition("@")
            found = [
                influence(kind, p.labels, p.probabilities, TUNED[rule](v.labels, v.probabilities) if rule else 0.5)
                for p, v in zip(self.test if split == "test" else self.val, self.val, strict=True)
            ]
            retune = partial(retuned, kind, rule, self.val, self.test) if rule and split == "test" else None
            self._known[metric, split] = Scored(np.array([f.score for f in found]), np.stack([f.psi for f in found]), retune)
        return self._known[metric, split]

    def tested_as(self, other: Evidence) -> bool:
        """Whether both were tested on the same movies, genres and labels, and at the same threshold."""
        a, b = self.test[0], other.test[0]
        return a.ids == b.ids and a.genres == b.genres and a.threshold == b.threshold and np.array_equal(a.labels, b.labels)

    @property
    def known(self) -> bool:
        """Whether its seeds and movies are enough to say anything."""
        return len(self.test) >= FEWEST_SEEDS and len(self.test[0].ids) >= FEWEST_MOVIES

    @property
    def split_within(self) -> str | None:
        """Why the setting's own seeds cannot be put together; None where they can."""
        configs = self.setting.of_finished
        if not all(p.labels.any() for p in self.test):
            return "no movie of its test split has a label, so it has no test scores"
        for split in (self.test, self.val):
            reasons = (unlike(split[0], other, configs[0], config) for other, config in zip(split, configs, strict=True))
            if reason := next(filter(None, reasons), None):
                return f"its own seeds differ in it: {reason}"
        for (seed, one), (other_seed, other) in combinations(zip(self.setting.seeds, self.test, strict=True), 2):
            if _alike(one, other):
                return f"its seeds {seed} and {other_seed} predict the same for every movie, so they are not two"
        return None

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the first run."""
        return self.setting.of_finished[0]


def check_record(run: Run) -> None:
    """Read the files of a run that a leaderboard depends on. Raises UserError, which names the file."""
    finished, config = run.status.get("state") == "finished", run.config
    for name in ("overrides", "environment"):
        getattr(run, name)
    if finished:
        records.check_finished_config(config, run / "config.yaml")
        metrics_of(run)


def check_evidence(run: Run) -> None:
    """Read every file of a run that a comparison depends on. Raises UserError, which names the file."""
    check_record(run)
    for name in ("audit", "history"):
        getattr(run, name)
    if run.status.get("state") == "finished":
        config = run.config
        records.check_compared_config(config, run / "config.yaml")
        test, val = read(run, "test"), read(run, "val")
        for key, a, b in (("genres", test.genres, val.genres), ("modalities", test.modalities, val.modalities)):
            if a != b:
                raise Damaged(run / "predictions/val.parquet", f"its {key} are not those of test.parquet")
        if "+".join(test.modalities) != config["modalities"]:
            raise Damaged(run / "predictions/test.parquet", "its modalities are not those of config.yaml")


def read(run: Run, split: str) -> Predictions:
    """Return a run's predictions, which its metrics.json agrees with. Raises UserError, which names the file."""
    path = run / f"predictions/{split}.parquet"
    found, metrics = run.predictions(split), metrics_of(run)
    if not np.isfinite(found.logits).all():
        raise Damaged(path, "it holds logits that are no numbers")
    if metrics.get(f"{split}/movies", len(found.ids)) != len(found.ids):
        raise Damaged(path, f"it has {len(found.ids):,} movies, and metrics.json counts {metrics[f'{split}/movies']}")
    labelled = found.labels.any()
    scored = influence("f1_micro", found.labels, found.probabilities).score if labelled else np.nan
    if labelled and found.threshold == PLAIN and abs(scored - metrics[f"{split}/f1_micro"]) > AGREE:
        raise UserError(
            f"{run.folder}: metrics.json says {metrics[f'{split}/f1_micro']:.4f} of {split}/f1_micro and its predictions give "
            f"{scored:.4f}, so one of them was changed: leave this run out, or train it again"
        )
    return found


def same(a: Evidence, b: Evidence) -> bool:
    """Whether two settings are one result: the same seeds, and equal logits for every test movie under each."""
    return a.setting.seeds == b.setting.seeds and _same_where_shared(a, b)


def shared_and_same(a: Evidence, b: Evidence) -> int:
    """How many seeds two settings share, where they predict the same under each of these; 0 where they do not."""
    return len(set(a.setting.seeds) & set(b.setting.seeds)) if _same_where_shared(a, b) else 0


def _same_where_shared(a: Evidence, b: Evidence) -> bool:
    theirs = dict(zip(b.setting.seeds, b.test, strict=True))
    shared = [(x, theirs[seed]) for seed, x in zip(a.setting.seeds, a.test, strict=True) if seed in theirs]
    return bool(shared) and all(_alike(x, y) for x, y in shared)


def _alike(x: Predictions, y: Predictions) -> bool:
    return x.ids == y.ids and x.logits.shape == y.logits.shape and np.allclose(x.logits, y.logits, rtol=0, atol=1e-6)


def why_not(a: Evidence, b: Evidence) -> str | None:
    """Why two settings cannot be compared; None where they can."""
    on_test = unlike(a.test[0], b.test[0], a.config, b.config)
    on_val = unlike(a.val[0], b.val[0], a.config, b.config)
    return on_test or (on_val and f"on val {on_val}")


def unlike(a: Predictions, b: Predictions, config_a: Mapping[str, Any], config_b: Mapping[str, Any]) -> str | None:
    """What sets apart the data or the rule of two runs' predictions of one split, named; None where nothing does."""
    if a.threshold != b.threshold:
        return f"predictions are made at the threshold {a.threshold} and at {b.threshold}"
    set_a, set_b = (str((config.get("choices") or {}).get("data", "")) for config in (config_a, config_b))
    if set_a != set_b:
        return f"one was tested on {set_a}, the other on {set_b}"
    differ = disagreeing(a.data_fingerprint, b.data_fingerprint)
    if not differ and a.ids == b.ids and a.genres == b.genres and np.array_equal(a.labels, b.labels):
        return None
    options = [
        f"data.{key} is {config_a['data'].get(key)} in one and {config_b['data'].get(key)} in the other"
        for key in MATTERS
        if config_a["data"].get(key) != config_b["data"].get(key)
    ]
    if options:
        return ", ".join(options)
    if a.ids == b.ids and a.genres != b.genres:
        order = "are in another order" if set(a.genres) == set(b.genres) else "differ"
        return f"their genres {order}"
    if a.ids == b.ids and not np.array_equal(a.labels, b.labels):
        return f"{int((a.labels != b.labels).any(axis=1).sum())} of {len(a.ids)} movies have other labels"
    if "movies" in differ or a.ids != b.ids:
        return f"they saw different movies, splits or labels ({len(a.ids)} and {len(b.ids)} {a.split} movies)"
    return f"the content of {' and '.join(differ)} differs"
