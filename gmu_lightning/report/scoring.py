"""Scores of runs' predictions, the influence of each movie on them, and the rules for comparable settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np

from gmu_lightning.decisions import Task
from gmu_lightning.metrics import TUNED
from gmu_lightning.movie import UNKNOWN, UserError
from gmu_lightning.report.influence import KINDS, influence, retuned
from gmu_lightning.report.settings import FEWEST_SEEDS, Setting
from gmu_lightning.report.split_statistics import FEWEST_SPLITS, OneSplit, ScoresOverSplits
from gmu_lightning.report.statistics import FEWEST_MOVIES, SplitScores
from gmu_lightning.run import Predictions, Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged
from gmu_lightning.run_files.shapes import is_number

STILL = 1e-6  # largest standard deviation of a gate that counts as rounding
PLAIN = 0.5  # the threshold of metrics.json's plain keys
AGREE = 1e-6
MATTERS = ("label_policy", "limit", "seed", "plot", "absent", "layout")  # options of `data` that change the movies or labels
DRAWN = ("split", "split_seed", "train_share", "missing")  # the same, which older runs lack
SCORES = tuple(
    f"{split}/{score}"
    for split in ("test", "val")
    for score in ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro")
)
COUNTS = {"parameters": "parameters/total", "parameters_fusion": "parameters/fusion"}
SECONDS = "seconds/total"
# Keys of metrics.json that are null for adopted predictions.
UNKNOWN_OF_ADOPTED = (*COUNTS.values(), "parameters/trainable", SECONDS, "best_epoch", "epochs")
ACCURACY = ("test/accuracy", "val/accuracy")  # further scores of multiclass runs
RANKING = {"f1_micro": "ap_micro", "f1_macro": "ap_macro", "f1_weighted": "ap_macro", "f1_samples": "ap_samples"}  # no threshold
RANKING |= {"accuracy": "ap_micro"}
OTHERWISE = "other movies, genres or labels, or at another threshold"
WORDS = {
    **{f"f1_{over}": f"{over} F1" for over in ("micro", "macro", "weighted", "samples")},
    **{f"ap_{over}": f"{over} AP" for over in ("micro", "macro", "samples")},
    "accuracy": "accuracy",
}


def check_metric(metric: str) -> None:
    """Raise UserError for an unknown metric; `f1_micro`, `ap_macro`, `f1_micro@val` and `auto` are known."""
    kind, _, rule = metric.partition("@")
    if metric != "auto" and (kind not in KINDS or (rule and (rule not in TUNED or not kind.startswith("f1_")))):
        rules = " or ".join(f"@{name}" for name in TUNED)
        raise UserError(f"metric={metric} is no score: choose one of {', '.join(KINDS)}, an F1 also with {rules}")


def metric_label(metric: str) -> str:
    """Return a metric in words, such as `micro F1 at a threshold tuned on val`."""
    kind, _, rule = metric.partition("@")
    tuned = {"": "", "val": " at a threshold tuned on val", "val_per_genre": " at thresholds tuned on val per genre"}[rule]
    return WORDS[kind] + tuned


def complete(p: Predictions) -> np.ndarray:
    """Return (N,) bool, the movies that have every modality; all movies if fewer than two have."""
    whole = np.asarray(p.present.all(axis=1))
    return whole if whole.sum() > 1 else np.ones_like(whole)


@dataclass(frozen=True)
class ScoredSetting:
    """A setting with the predictions of its finished runs.

    Attributes:
        setting: the runs.
        test, val: their predictions, in the same order.
        splits: {name: its runs on a split}, if they have several splits; otherwise empty.
    """

    setting: Setting
    test: Sequence[Predictions]
    val: Sequence[Predictions]
    splits: Mapping[str, ScoredSetting] = field(default_factory=dict)

    @classmethod
    def of(cls, setting: Setting) -> ScoredSetting:
        """Read the runs' files. Raises UserError with the name of a damaged run."""
        parts = {name: cls.of(part) for name, part in setting.splits.items() if part.finished}
        if len(parts) > 1:
            test, val = [p for e in parts.values() for p in e.test], [p for e in parts.values() for p in e.val]
            return cls(setting, test, val, parts)
        return cls(setting, [read(run, "test") for run in setting.finished], [read(run, "val") for run in setting.finished])

    @property
    def name(self) -> str:
        """Name of the setting."""
        return self.setting.name

    @property
    def task(self) -> Task:
        """Task of the labels."""
        return self.test[0].task

    @property
    def fusion(self) -> str:
        """Name of the fusion."""
        return str(self.setting.values["fusion"])

    @cached_property
    def gates_move(self) -> bool:
        """Whether the gate of any seed differs between complete movies. A single complete movie counts as movement."""
        gates = [p.gate[complete(p)] for p in self.test if p.gate is not None]
        return any(len(gate) < 2 or bool((gate.std(axis=0) > STILL).any()) for gate in gates)

    @cached_property
    def _known(self) -> dict[tuple[str, str], SplitScores | ScoresOverSplits]:
        return {}

    @property
    def seeds_each(self) -> int:
        """Number of runs; with several splits, the smallest number on one."""
        return min((len(one.test) for one in self.splits.values()), default=len(self.test))

    @cached_property
    def train_movies(self) -> int:
        """Number of train movies, as the first run's audit counts them; 0 if it does not."""
        return int((self.setting.finished[0].audit.get("movies") or {}).get("train", 0))

    def on(self, split: str) -> ScoredSetting | None:
        """Return its runs on one of several splits; None if it has none there."""
        own = self.splits or {name: self for name in self.setting.splits if self.setting.splits[name].finished}
        return own.get(split)

    def has(self, metric: str) -> bool:
        """Return whether the task has the metric: only multiclass has an accuracy, only multilabel has thresholds to tune."""
        return (metric != "accuracy" or self.task == "multiclass") and ("@" not in metric or self.task == "multilabel")

    def scored(self, metric: str, split: str = "test") -> SplitScores | ScoresOverSplits:
        """Return the scores of every run on val or test, by the plain decisions or at thresholds tuned on val."""
        if (metric, split) not in self._known and self.splits:
            self._known[metric, split] = ScoresOverSplits({k: e.one_split(metric, split) for k, e in self.splits.items()})
        if (metric, split) not in self._known:
            kind, _, rule = metric.partition("@")
            found = [
                influence(kind, p.labels, p.probabilities, TUNED[rule](v.labels, v.probabilities) if rule else PLAIN, p.task)
                for p, v in zip(self.test if split == "test" else self.val, self.val, strict=True)
            ]
            retune = partial(retuned, kind, rule, self.val, self.test) if rule and split == "test" else None
            self._known[metric, split] = SplitScores(np.array([f.score for f in found]), np.stack([f.psi for f in found]), retune)
        return self._known[metric, split]

    def one_split(self, metric: str, split: str) -> OneSplit:
        """Return the scores on val or test with the movies behind them. The runs have one split."""
        scores, movies = self.scored(metric, split), tuple((self.test if split == "test" else self.val)[0].ids)
        assert isinstance(scores, SplitScores)
        ratio = len(movies) / self.train_movies if self.train_movies else None
        return OneSplit(scores, movies, tuple(self.val[0].ids), ratio)

    def tested_as(self, other: ScoredSetting) -> bool:
        """Whether both settings have the same test movies, genres, labels, task and threshold, on all splits that both have.

        If one has several splits, both need two in common.
        """
        if self.splits or other.splits:
            shared = common_splits(self, other)
            return len(shared) > 1 and all(self.splits[name].tested_as(other.splits[name]) for name in shared)
        a, b = self.test[0], other.test[0]
        alike = a.ids == b.ids and a.genres == b.genres and a.task == b.task and a.threshold == b.threshold
        return alike and np.array_equal(a.labels, b.labels)

    @property
    def known(self) -> bool:
        """Whether there are enough seeds, splits and movies for an interval."""
        if self.splits:
            counted = all(one.train_movies and len(one.test[0].ids) >= FEWEST_MOVIES for one in self.splits.values())
            return counted and len(self.splits) >= FEWEST_SPLITS
        return len(self.test) >= FEWEST_SEEDS and len(self.test[0].ids) >= FEWEST_MOVIES

    @property
    def split_within(self) -> str | None:
        """Reason why the setting's own seeds disagree; None if they are consistent."""
        if self.splits:
            within = ((name, one.split_within) for name, one in self.splits.items())
            return next((f"on the split {name}, {reason}" for name, reason in within if reason), None)
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
        """Configuration of the first run."""
        return self.setting.of_finished[0]


def own_metric(metric: str, scored: Sequence[ScoredSetting]) -> str:
    """Return the metric of these settings: for `auto`, `accuracy` if all of them are multiclass, and `f1_micro` otherwise.

    Raises:
        UserError: a setting lacks the metric, because it has no threshold to tune, or no accuracy.
    """
    if metric == "auto":
        return name_for("f1_micro", "multilabel" if any(one.task == "multilabel" for one in scored) else "multiclass")
    for one in scored:
        if not one.has(metric):
            raise UserError(
                f"metric={metric} does not exist for {one.name}, whose task is {one.task}: choose metric=f1_micro, or leave out "
                f"the {one.task} runs"
            )
    return metric


def name_for(score: str, task: Task) -> str:
    """Return the usual name of a score: micro F1 is the accuracy in a multiclass task."""
    return "accuracy" if score == "f1_micro" and task == "multiclass" else score


def companion_metrics(metric: str, task: Task) -> list[str]:
    """Return the metrics that show the part of a threshold in a lead: tuned F1s and an average precision; [] for the latter."""
    kind, _, rule = metric.partition("@")
    if kind.startswith("ap_"):
        return []
    tuned = [] if rule or task == "multiclass" else [f"{kind}@{name}" for name in TUNED]
    return [*tuned, RANKING[kind]]


def metrics_of(run: Run) -> dict[str, Any]:
    """Return a finished run's metrics.json. Adopted predictions have null for the numbers of parameters and the seconds.

    Raises:
        UserError: it is damaged, or lacks a number that a leaderboard shows.
    """
    found = run.metrics
    scores = [key for key in SCORES if not (key.startswith("test/") and found.get("test/movies_with_genre") == 0)]
    measured = [key for key in (*COUNTS.values(), SECONDS) if key not in found or found[key] is not None]
    lacking = [key for key in (*measured, *scores) if not is_number(found.get(key))]
    if lacking:
        raise UserError(f"{run / 'metrics.json'} lacks {', '.join(lacking[:3])}: leave this run out, or train it again")
    return found


def check_record(run: Run) -> None:
    """Read the files that a leaderboard needs. Raises UserError with the name of a damaged file."""
    finished, config = run.status.get("state") == "finished", run.config
    for name in ("overrides", "environment"):
        getattr(run, name)
    if finished:
        records.check_config(config, run / "config.yaml", records.FINISHED)
        metrics_of(run)


def check_comparable(run: Run) -> None:
    """Read the files that a comparison needs. Raises UserError with the name of a damaged file."""
    check_record(run)
    for name in ("audit", "history"):
        getattr(run, name)
    if run.status.get("state") == "finished":
        config = run.config
        records.check_config(config, run / "config.yaml", records.COMPARED)
        test, val = read(run, "test"), read(run, "val")
        for key, a, b in (("genres", test.genres, val.genres), ("modalities", test.modalities, val.modalities)):
            if a != b:
                raise Damaged(run / "predictions/val.parquet", f"its {key} are not those of test.parquet")
        if ("+".join(test.modalities) or UNKNOWN) != config["modalities"]:
            raise Damaged(run / "predictions/test.parquet", "its modalities are not those of config.yaml")


def read(run: Run, split: str) -> Predictions:
    """Return a finished run's predictions. Raises UserError if they are missing, damaged, or contradict metrics.json."""
    path = run / f"predictions/{split}.parquet"
    found, metrics = run.predictions(split), metrics_of(run)
    if not np.isfinite(found.logits).all():
        raise Damaged(path, "it holds logits that are no numbers")
    if metrics.get(f"{split}/movies", len(found.ids)) != len(found.ids):
        raise Damaged(path, f"it has {len(found.ids):,} movies, and metrics.json counts {metrics[f'{split}/movies']}")
    labelled = found.labels.any()
    scored = influence("f1_micro", found.labels, found.probabilities, task=found.task).score if labelled else np.nan
    if labelled and found.threshold in (PLAIN, None) and abs(scored - metrics[f"{split}/f1_micro"]) > AGREE:
        raise UserError(
            f"{run.folder}: metrics.json says {metrics[f'{split}/f1_micro']:.4f} of {split}/f1_micro and its predictions give "
            f"{scored:.4f}, so one of them was changed: leave this run out, or train it again"
        )
    return found


def common_splits(a: ScoredSetting, b: ScoredSetting) -> list[str]:
    """Return the names of the splits that both settings have, if both have several."""
    return [name for name in a.splits if name in b.splits]


def same(a: ScoredSetting, b: ScoredSetting) -> bool:
    """Whether two settings have the same seeds and equal test logits."""
    if a.splits or b.splits:
        return list(a.splits) == list(b.splits) and all(same(one, b.splits[name]) for name, one in a.splits.items())
    return a.setting.seeds == b.setting.seeds and shared_and_same(a, b) > 0


def shared_and_same(a: ScoredSetting, b: ScoredSetting) -> int:
    """Return the number of shared runs if both settings predict the same with each of them; otherwise 0."""
    if names := common_splits(a, b):
        counts = [shared_and_same(a.splits[name], b.splits[name]) for name in names]
        return sum(counts) if all(counts) else 0
    theirs = dict(zip(b.setting.seeds, b.test, strict=True))
    shared = [(x, theirs[seed]) for seed, x in zip(a.setting.seeds, a.test, strict=True) if seed in theirs]
    return len(shared) if all(_alike(x, y) for x, y in shared) else 0


def _alike(x: Predictions, y: Predictions) -> bool:
    return x.ids == y.ids and x.logits.shape == y.logits.shape and np.allclose(x.logits, y.logits, rtol=0, atol=1e-6)


def incompatibility(a: ScoredSetting, b: ScoredSetting) -> str | None:
    """Return the reason why two settings are not comparable; None if they are."""
    if a.splits or b.splits:
        names = common_splits(a, b)
        if len(names) < 2:
            return f"{_shared_splits(a, b)}, and a comparison over splits needs at least two"
        reasons = ((name, incompatibility(a.splits[name], b.splits[name])) for name in names)
        return next((f"on the split {name}, {reason}" for name, reason in reasons if reason), None)
    on_test = unlike(a.test[0], b.test[0], a.config, b.config)
    on_val = unlike(a.val[0], b.val[0], a.config, b.config)
    return on_test or (on_val and f"on val {on_val}")


def _shared_splits(a: ScoredSetting, b: ScoredSetting) -> str:
    names = [name for name in a.setting.splits if a.on(name) and b.on(name)]
    return f"they share one split, {names[0]}" if names else "they share no split"


def unlike(a: Predictions, b: Predictions, config_a: Mapping[str, Any], config_b: Mapping[str, Any]) -> str | None:
    """Return the difference in data, task or threshold between two runs' predictions of one split; None if they agree."""
    if a.task != b.task:
        return "one predicts exactly one label for each movie, the other any number"
    if a.threshold != b.threshold:
        return f"predictions are made at the threshold {a.threshold} and at {b.threshold}"
    set_a, set_b = (str((config.get("choices") or {}).get("data", "")) for config in (config_a, config_b))
    if set_a != set_b:
        return f"one was tested on {set_a}, the other on {set_b}"
    differ = disagreeing(a.data_fingerprint, b.data_fingerprint)
    if not differ and a.ids == b.ids and a.genres == b.genres and np.array_equal(a.labels, b.labels):
        return None
    both = [key for key in DRAWN if key in config_a["data"] and key in config_b["data"]]
    options = [
        f"data.{key} is {config_a['data'].get(key)} in one and {config_b['data'].get(key)} in the other"
        for key in (*MATTERS, *both)
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
