"""Write the files of finished runs without training, with predictions of a chosen quality."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.decisions import Task
from gmu_lightning.files import write_json, write_rows
from gmu_lightning.metrics import scores, tune_per_genre, tune_threshold
from gmu_lightning.report.diagnosis import Diagnosis
from gmu_lightning.report.influence import Influence
from gmu_lightning.run import Predictions, Run

GENRES = ("Action", "Comedy", "Drama", "Horror")
FINGERPRINT = {"movies": "m1", "text": "t1", "image": "i1"}


@dataclass
class Sweep:
    """A folder of runs on one data set.

    Attributes:
        movies: {split: number of movies}.
        task: `multiclass` gives each movie one label.
    """

    folder: Path
    movies: dict[str, int] = field(default_factory=lambda: {"val": 60, "test": 80})
    genres: Sequence[str] = GENRES
    fingerprint: dict[str, str] = field(default_factory=lambda: dict(FINGERPRINT))
    task: Task = "multilabel"

    def run(
        self,
        fusion: str = "mean",
        seed: int = 1,
        skill: float = 1.0,
        modalities: str = "text+image",
        typed: Sequence[str] = (),
        spread: float = 0.05,
        options: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Run:
        """Write a finished run, with gates if the fusion is a GMU.

        Args:
            skill: a genre's logit is this much higher with the genre and lower without it, on average.
            typed: further overrides of the command line.
            spread: standard deviation of the skill between seeds.
            options: options of the fusion, such as `bias`.
            config: further groups of the configuration, merged into the default ones.
        """
        names = modalities.split("+")
        whole = {
            "modalities": modalities,
            "seed": seed,
            "fusion": {"_target_": f"x.{fusion}", **(options or {})},
            "choices": {"data": "mmimdb", "fusion": fusion},
            "encoder": {m: {"name": "tiny"} for m in names},
            "data": {"root": "/data/movies", "label_policy": "keep23", "limit": None, "seed": 0},
            "store": {"dir": "/data/store"},
        }
        for key, value in config.items():
            whole[key] = {**whole[key], **value} if isinstance(whole.get(key), dict) else value
        made = Run(self.folder / f"{fusion}-{modalities}-seed{seed}-{len(list(self.folder.glob('*')))}")
        made.begin(whole, [f"fusion={fusion}", f"modalities={modalities}", f"seed={seed}", *typed])
        rng = np.random.default_rng(zlib.crc32(f"{fusion} {modalities} {seed} {skill}".encode()))
        own = skill + rng.normal(0, spread)
        found = {split: self._predictions(split, names, own, rng, fusion.startswith("gmu")) for split in ("val", "test")}
        metrics: dict[str, Any] = {}
        for split, predicted in found.items():
            predicted.write(made / f"predictions/{split}.parquet")
            metrics |= _scores(predicted, found["val"])
            metrics |= {f"{split}/loss": 0.3, f"{split}/movies": len(predicted.ids), f"{split}/movies_without_input": 0}
        metrics |= {"best_epoch": 3, "epochs": 4, "seconds/total": 5.0, "parameters/total": 1000, "parameters/fusion": 10}
        write_json(made / "metrics.json", metrics)
        write_rows(made / "history.csv", [_epoch(n, metrics) for n in range(4)])
        write_json(made / "environment.json", {"data_fingerprint": dict(self.fingerprint), "device": "cpu", "seed": seed})
        genres = {
            split: dict(zip(self.genres, predicted.labels.sum(axis=0).tolist(), strict=True))
            for split, predicted in found.items()
        }
        write_json(made / "audit.json", {"layout": "raw", "movies": self.movies, "genres": genres, "problems": [], "counts": {}})
        made.end("finished")
        return made

    def three_seeds(self, fusion: str = "mean", skill: float = 1.0, **more: Any) -> list[Run]:
        """Write the runs of three seeds, the smallest number that allows a claim."""
        return [self.run(fusion, seed, skill, **more) for seed in (1, 2, 3)]

    def rivals(self) -> list[Run]:
        """Write two settings of three seeds; the first one is far better."""
        return [*self.three_seeds("gmu_original", 2.0), *self.three_seeds("concat", 0.5)]

    def three_settings(self) -> list[Run]:
        """Write three settings of three seeds: a gate, then `concat`, then text alone."""
        return [
            *self.three_seeds("gmu_original", 2.0),
            *self.three_seeds("concat", 0.8),
            *self.three_seeds("none", 0.6, modalities="text"),
        ]

    def _predictions(self, split: str, names: list[str], skill: float, rng: np.random.Generator, gated: bool) -> Predictions:
        count, genres, modalities = self.movies[split], len(self.genres), len(names)
        shared = np.random.default_rng(len(split))  # the same movies for every run
        labels = shared.random((count, genres)) < 0.35
        if self.task == "multiclass":
            labels = np.eye(genres, dtype=bool)[shared.integers(genres, size=count)]
        hard = shared.normal(0, 1, labels.shape)
        parts = (skill * (2.0 * labels - 1) + hard)[:, None] / modalities + rng.normal(0, 0.4, (count, modalities, genres))
        gate = np.clip(rng.normal(0.5, 0.2, (count, modalities, genres)), 0, 1)
        bias = np.full(genres, -0.2)
        return Predictions(
            ids=[f"{split}{n:05d}" for n in range(count)],
            split=split,
            genres=tuple(self.genres),
            modalities=tuple(names),
            present=np.ones((count, modalities), bool),
            logits=parts.sum(axis=1) + bias,
            labels=labels,
            data_fingerprint={k: v for k, v in self.fingerprint.items() if k == "movies" or k in names},
            task=self.task,
            open_threshold=0.5 if gated else None,
            bias=bias,
            gate=gate.mean(axis=2) if gated else None,
            gate_open=(gate > 0.5).mean(axis=2) if gated else None,
            gate_by_genre=gate if gated else None,
            contributions=parts,
        )


def predictions_of(runs: Sequence[Run], fusion: str) -> list[Predictions]:
    """Return the test predictions of the runs with this fusion."""
    return [run.predictions("test") for run in runs if run.config["choices"]["fusion"] == fusion]


def replace_predictions(run: Run, predicted: Predictions) -> None:
    """Write other predictions of a split into a run, and their scores into its metrics."""
    predicted = replace(predicted)  # recomputes the probabilities from changed logits
    predicted.write(run / f"predictions/{predicted.split}.parquet")
    val = predicted if predicted.split == "val" else run.predictions("val")
    write_json(run / "metrics.json", run.metrics | _scores(predicted, val))


def _scores(predicted: Predictions, val: Predictions) -> dict[str, float]:
    rules = {
        "": 0.5,
        "@val": tune_threshold(val.labels, val.probabilities),
        "@val_per_genre": tune_per_genre(val.labels, val.probabilities),
    }
    found: dict[str, float] = {}
    for rule, at in rules.items():
        if rule and predicted.task == "multiclass":
            continue
        at_rule = scores(predicted.labels, predicted.probabilities, predicted.genres, at, predicted.task)
        found |= {f"{predicted.split}/{k}{rule}": v for k, v in at_rule.items() if not rule or k.startswith("f1_")}
    return found


def write_study(run: Run, lost: Mapping[str, float], split: str = "test", time: str = "1", by_genre: Sequence[str] = ()) -> None:
    """Write the files of `evaluate robustness=true` into a run. All modalities together score 0.6.

    Args:
        lost: {modality: loss of score without it}.
        time: name of the study's folder.
        by_genre: genres with losses of their own. Genre n loses 0.1 n without the first modality and 0.05 n without another.
    """
    folder = run / f"evaluate/{time}"
    predicted = run.predictions(split)
    predicted.write(folder / f"predictions/{split}.parquet")
    names = predicted.modalities
    rest = {"+".join(other for other in names if other != modality): 0.6 - less for modality, less in lost.items()}
    at = {"+".join(names): 0.6, **rest}
    rows = [{"kind": "subset", "subset": left, "f1_micro": score, "ap_micro": score} for left, score in at.items()]
    write_rows(folder / "robustness.csv", [*rows, {"kind": "share", "subset": None, "f1_micro": 0.1, "ap_micro": 0.1}])
    steps = {left: 0.05 if n else 0.1 for n, left in enumerate(rest)}
    if by_genre:
        table = [
            {"subset": left, "genre": genre, "movies": 9, "f1": 0.1, "ap": 0.9 - n * steps.get(left, 0.0)}
            for left in at
            for n, genre in enumerate(by_genre)
        ]
        write_rows(folder / "robustness_by_genre.csv", table)
    write_json(folder / "robustness.json", {"split": split})


def write_diagnosis(run: Run, cost: float = 0.2, time: str = "1", noise: float = 0.1) -> None:
    """Write what `evaluate diagnose=true` leaves into a run: a score of 0.8, and Shapley values of 0.1 and 0.4 in turn.

    Args:
        cost: of permuted gates, of mean gates and of the additive approximation.
        time: name of the diagnosis' folder.
        noise: standard deviation of the influences, which sets the intervals' width.
    """
    predicted = run.predictions("test")
    rng = np.random.default_rng(zlib.crc32(run.folder.name.encode()))

    def measure(value: float) -> Influence:
        psi = rng.normal(0, noise, len(predicted.ids))
        return Influence(value + rng.normal(0, noise / 50), psi - psi.mean())

    changes = dict.fromkeys(("gates_permuted", "gates_mean") if predicted.gate is not None else (), 0.8 - cost)
    values = {"score": 0.8, "empty": 0.3, "emap": 0.8 - cost, **changes}
    measures = {f"{word}/{metric}": measure(value) for word, value in values.items() for metric in ("f1_micro", "ap_micro")}
    bits: dict[str, dict[str, Any]] = {g: {"redundant": 0.1, "unique": {}, "joint": 0.3} for g in predicted.genres}
    for n, m in enumerate(predicted.modalities):
        measures |= {f"shapley/{m}/{metric}": measure(0.4 if n % 2 else 0.1) for metric in ("f1_micro", "ap_micro")}
        measures |= {
            f"shapley_by_genre/{m}/{g}": measure(0.5 * (c + n) / (len(bits) + 1)) for c, g in enumerate(predicted.genres)
        }
        measures[f"information/unique/{m}"] = measure(0.1)
        for of in bits.values():
            of["unique"][m] = 0.2 * n
    measures |= {f"information/{word}": measure(0.1) for word in ("redundant", "joint")}
    of_run = (predicted.ids, predicted.modalities, predicted.genres, predicted.task)
    made = Diagnosis("test", *of_run, measures, bits, {"data_fingerprint": predicted.data_fingerprint})
    made.write(run / f"evaluate/{time}")


def _epoch(number: int, metrics: dict[str, Any]) -> dict[str, Any]:
    rise = 0.7 + 0.1 * number
    row = {
        "epoch": number,
        "step": 10 * (number + 1),
        "seconds": 0.1,
        "lr": 1e-3,
        "train/loss": 1 - 0.2 * number,
        "val/loss": 0.4,
    }
    return row | {f"val/{score}": rise * metrics[f"val/{score}"] for score in ("f1_micro", "f1_macro", "ap_micro", "ap_macro")}
