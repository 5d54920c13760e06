"""Write runs on several splits of one pool of movies, and runs with several amounts of data, without training."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gmu_lightning.run import Predictions, Run

from .made_runs import Sweep


@dataclass
class Pool(Sweep):
    """A folder of runs on splits of one pool of movies.

    Attributes:
        skill_sd: standard deviation of what a setting gains or loses on a split.
        taste: {fusion: how much better it is on the published split alone}.
    """

    skill_sd: float = 0.02
    split: int | None = None  # of the run that is written; None is the published one

    def __post_init__(self) -> None:
        self.movies = {"train": 3 * self.movies["test"], **self.movies}

    def on_splits(
        self,
        fusion: str,
        skill: float = 1.0,
        splits: Sequence[int | None] = (None, 1, 2, 3, 4),
        seeds: Sequence[int] = (1, 2, 3),
        published: float = 0.0,
        **more: Any,
    ) -> list[Run]:
        """Write the runs of a setting on splits: None is the published one, a number a random one.

        Args:
            published: further skill on the published split.
        """
        found = []
        for split in splits:
            own = np.random.default_rng(zlib.crc32(f"{fusion} {split}".encode())).normal(0, self.skill_sd)
            of_split = replace_split(self, split)
            data = {"split": "published", "split_seed": None} if split is None else {"split": "random", "split_seed": split}
            typed = [] if split is None else ["data.split=random", f"data.split_seed={split}"]
            there = skill + own + (published if split is None else 0.0)
            for seed in seeds:
                options = {"data": data | more.get("data", {}), "typed": [*typed, *more.get("typed", ())]}
                found.append(of_split.run(fusion, seed, there, **{**more, **options}))
        return found

    def _predictions(self, split: str, names: list[str], skill: float, rng: np.random.Generator, gated: bool) -> Predictions:
        """Return predictions of the movies that the split draws from the pool."""
        wanted = dict(self.movies)
        total = sum(wanted.values())
        order = np.random.default_rng(100 + (self.split or 0)).permutation(total)
        start = {"train": 0, "val": wanted["train"], "test": wanted["train"] + wanted["val"]}[split]
        rows = np.sort(order[start : start + wanted[split]])
        self.movies = {**wanted, split: total}
        whole = super()._predictions(split, names, skill, rng, gated)
        self.movies = wanted
        pool = np.random.default_rng(7)  # the movies of val and test are those of one pool
        labels = pool.random(whole.labels.shape) < 0.35
        hard = pool.normal(0, 1, labels.shape)
        logits = skill * (2.0 * labels - 1) + hard + rng.normal(0, 0.4, labels.shape) - 0.2
        parts = np.repeat((logits + 0.2)[:, None] / len(names), len(names), axis=1)
        kept = {
            name: None if (value := getattr(whole, name)) is None else value[rows]
            for name in ("present", "gate", "gate_open", "gate_by_genre")
        }
        ids = [f"movie{n:05d}" for n in rows]
        return replace(whole, ids=ids, labels=labels[rows], logits=logits[rows], contributions=parts[rows], **kept)


def replace_split(pool: Pool, split: int | None) -> Pool:
    """Return a pool whose next runs are on this split."""
    there = Pool(pool.folder, {k: n for k, n in pool.movies.items() if k != "train"}, pool.genres, task=pool.task, split=split)
    there.fingerprint = {**pool.fingerprint, "movies": f"m{split}"}
    return there


def at_shares(sweep: Sweep, fusion: str, skills: dict[float, float]) -> list[Run]:
    """Write three seeds of a setting at each share of train, {share: skill}."""
    found = []
    for share, skill in skills.items():
        own = Sweep(sweep.folder, sweep.movies, sweep.genres, {**sweep.fingerprint, "movies": f"share {share}"})
        typed = [f"data.train_share={share}"]
        found += own.three_seeds(fusion, skill, data={"train_share": share}, typed=typed)
    return found


def at_rates(sweep: Sweep, fusion: str, skills: dict[float, float], modality: str = "image") -> list[Run]:
    """Write three seeds of a setting at each rate of a missing modality, {rate: skill}; 0 misses none."""
    found = []
    for rate, skill in skills.items():
        own = Sweep(sweep.folder, sweep.movies, sweep.genres, {**sweep.fingerprint, modality: f"rate {rate}"})
        missing = {modality: rate, "splits": ["train", "val", "test"], "seed": 0}
        typed = [f"data.missing.{modality}={rate}"]
        found += own.three_seeds(fusion, skill, data={"missing": missing}, typed=typed)
    return found
