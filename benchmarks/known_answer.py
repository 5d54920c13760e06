"""Check that sweeps on generated movies find the planted effects, from the runs' files and the truth beside the movies.

python benchmarks/known_answer.py SWEEP...     exit 1 if a criterion fails or lacks a run
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.data.planted import PlantedDataModule
from gmu_lightning.data.store import Store
from gmu_lightning.run import Run, runs_under

GATES = ("gmu_original", "gmu_hier", "gmu_softmax")
BOUNDS: dict[Callable[[Any, Any], bool], tuple[str, Callable[[Any], float]]] = {  # words, worst seed
    operator.ge: ("at least", np.min),  # NaN if a seed gives NaN
    operator.gt: ("more than", np.min),
    operator.le: ("at most", np.max),
}


class MissingRun(Exception):
    """A criterion needs a run that is missing or did not finish."""


class Sweep:
    """The finished runs of a sweep, and the known answer of their task.

    Attributes:
        fullest: the largest set of modalities of any run.
        seeds: seeds of all runs, including failed ones.
        truth: {movie: the modality that its switch selects}.
        kinds: {genre: `switch`, or the only modality that carries its signal}.
    """

    def __init__(self, folder: Path):
        tried = [run for run in runs_under(folder) if run.status["state"] != "skipped"]
        finished = [run for run in tried if run.status["state"] == "finished"]
        if not finished or any(run.config["choices"]["data"] != "planted" for run in tried):
            raise SystemExit(f"{folder} is no sweep on generated movies: give the folder that train -m data=planted left")
        self.runs = {(fusion_name(r.config), r.config["modalities"], r.config["seed"]): r for r in finished}
        if len(self.runs) < len(finished):
            raise SystemExit(f"{folder} varies more than fusion, head, modalities and seed: give a sweep that varies these alone")
        self.fullest: tuple[str, ...] = max((tuple(r.config["modalities"].split("+")) for r in tried), key=len)
        self.seeds = sorted({r.config["seed"] for r in tried})
        config = finished[0].config
        data = PlantedDataModule(**{k: value for k, value in config["data"].items() if not k.startswith("_")}).data_set
        folder = data.open(data.modalities, Store(config["store"]["dir"])).root
        rows = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
        self.truth: dict[str, str] = {row["id"]: row["switch"] for row in rows}
        self.kinds: dict[str, str] = json.loads((folder / "genres.json").read_text())
        if len(self.fullest) < 2 or set(self.fullest) != set(data.planted):
            raise SystemExit(f"{folder} fuses no more than {'+'.join(self.fullest)}, and planted are {'+'.join(data.planted)}")

    def run(self, fusion: str, modalities: Sequence[str], seed: int) -> Run:
        """Return a finished run. Raises MissingRun if there is none."""
        wanted = fusion, "+".join(modalities), seed
        if wanted not in self.runs:
            raise MissingRun("it needs fusion={} modalities={} seed={}, and no such run finished".format(*wanted))
        return self.runs[wanted]

    def f1(self, fusion: str, modalities: Sequence[str], seed: int) -> float:
        """Return the test micro F1 of a run. Raises MissingRun if there is none."""
        return self.run(fusion, modalities, seed).metrics["test/f1_micro"]


def fusion_name(config: dict[str, Any]) -> str:
    """Return the choice of `fusion=`, followed by its head unless that is linear."""
    head = config["fusion"].get("head", "linear")
    return config["choices"]["fusion"] + ("" if head == "linear" else f" {head}")


def over(other: str) -> Callable[[Sweep, str, int], float]:
    """Return the lead of a gate over another fusion in micro F1, both with all modalities."""
    return lambda sweep, gate, seed: sweep.f1(gate, sweep.fullest, seed) - sweep.f1(other, sweep.fullest, seed)


def score(sweep: Sweep, fusion: str, seed: int) -> float:
    """Return the micro F1 of a fusion with all modalities."""
    return sweep.f1(fusion, sweep.fullest, seed)


def over_single(sweep: Sweep, gate: str, seed: int) -> float:
    """Return the lead in micro F1 of a gate with all modalities over the best single modality."""
    return sweep.f1(gate, sweep.fullest, seed) - max(sweep.f1("none", [m], seed) for m in sweep.fullest)


def smallest_step(sweep: Sweep, gate: str, seed: int) -> float:
    """Return the smallest gain in micro F1 from adding the modalities one after the other."""
    more = [sweep.f1(gate, sweep.fullest[:n], seed) for n in range(2, len(sweep.fullest) + 1)]
    return min(b - a for a, b in pairwise([sweep.f1("none", sweep.fullest[:1], seed), *more]))


def follows(sweep: Sweep, gate: str, seed: int) -> float:
    """Return the smallest correlation, over modalities m, of 1[s = m] with m's gate, weighted by the switch genres."""
    test = sweep.run(gate, sweep.fullest, seed).predictions("test")
    assert test.gate_by_genre is not None
    gates = test.gate_by_genre[:, :, [sweep.kinds[genre] == "switch" for genre in test.genres]].mean(axis=2)  # (N, M)
    switch = np.array([[sweep.truth[movie] == m for m in test.modalities] for movie in test.ids])
    return float(np.min([np.corrcoef(gate, selected)[0, 1] for gate, selected in zip(gates.T, switch.T, strict=True)]))


def with_signal(sweep: Sweep, genre: str, seed: int) -> float:
    """Return the lowest test F1 of a genre over the runs that read the modality with its signal."""
    return min(run.metrics[f"test/f1/{genre}"] for run in reading(sweep, genre, seed, its=True))


def without_signal(sweep: Sweep, genre: str, seed: int) -> float:
    """Return the highest test F1 of a genre over the runs without its modality, minus the F1 of predicting it for all movies.

    The latter is 2p / (1 + p), where p is the genre's share of the test movies.
    """
    runs = reading(sweep, genre, seed, its=False)
    test = runs[0].predictions("test")
    share = float(test.labels[:, test.genres.index(genre)].mean())
    return max(run.metrics[f"test/f1/{genre}"] for run in runs) - 2 * share / (1 + share)


def reading(sweep: Sweep, genre: str, seed: int, its: bool) -> list[Run]:
    """Return the runs of a seed that read the genre's modality (`its`), or the others. Raises MissingRun if there is none."""
    own = sweep.kinds[genre]
    runs = [run for (_, joined, s), run in sweep.runs.items() if s == seed and (own in joined.split("+")) is its]
    if not runs:
        raise MissingRun(f"it needs a run with{'' if its else 'out'} {own} of seed={seed}, and none finished")
    return runs


def hier_from_original(sweep: Sweep, _: str, seed: int) -> float:
    """Return the largest difference between the logits of gmu_hier and gmu_original, which are equal for two modalities."""
    hier, original = (sweep.run(gate, sweep.fullest[:2], seed).predictions("test") for gate in ("gmu_hier", "gmu_original"))
    return float(np.abs(hier.logits - original.logits).max())


class Criterion(NamedTuple):
    """A measurement per seed, and the bound for its worst seed."""

    name: str
    measure: Callable[[Sweep, str, int], float]
    within: Callable[[Any, Any], bool]
    bound: float

    def judge(self, sweep: Sweep, subject: str) -> bool:
        """Return whether the criterion holds for the subject (a fusion, genre or pair), and print a line about it."""
        words, worst_of = BOUNDS[self.within]
        try:
            worst = worst_of([self.measure(sweep, subject, seed) for seed in sweep.seeds])
        except MissingRun as missing:
            print(f"FAILS  {subject} {self.name}: {missing}")
            return False
        holds = self.within(worst, self.bound)
        print(f"{'holds' if holds else 'FAILS'}  {subject} {self.name}: {worst:.3f}, {words} {self.bound:g}")
        return holds


OF_A_GATE = (
    Criterion("over mean, micro F1", over("mean"), operator.ge, 0.10),
    Criterion("over concat, micro F1", over("concat"), operator.ge, 0.08),
    Criterion("over self_gate, whose gates see one modality each, micro F1", over("self_gate"), operator.ge, 0.08),
    Criterion("over the best modality alone, micro F1", over_single, operator.ge, 0.15),
    Criterion("over one modality fewer, micro F1, smallest step", smallest_step, operator.gt, 0.0),
    Criterion("against the truth, correlation", follows, operator.ge, 0.95),
)
OF_A_GENRE = (
    Criterion("with the modality that tells it, F1", with_signal, operator.ge, 0.95),
    Criterion("without, F1 over answering yes for every movie", without_signal, operator.le, 0.05),
)
# Concat cannot follow the switch with a linear head, but with a maxout head it can.
OF_A_HEAD = (Criterion("without a gate, micro F1", score, operator.ge, 0.95),)
OF_A_PAIR = (Criterion("gmu_hier from gmu_original, largest difference of a logit", hier_from_original, operator.le, 1e-6),)


def judge(folder: Path) -> list[bool]:
    """Print a heading and all criteria of a sweep with their worst seeds; return which criteria hold."""
    sweep = Sweep(folder)
    chain = " over ".join("+".join(sweep.fullest[:n]) for n in range(len(sweep.fullest), 0, -1))
    print(f"\n{folder}: {chain}; the worst of seeds {', '.join(map(str, sweep.seeds))}")
    genres = [genre for genre, kind in sweep.kinds.items() if kind != "switch"]
    more = len(sweep.fullest) > 2  # for two modalities gmu_hier equals gmu_original; the larger sweep checks that
    gates = [gate for gate in GATES if more or gate != "gmu_hier"]
    checks = [(c, gate) for gate in gates for c in OF_A_GATE] + [(c, genre) for genre in genres for c in OF_A_GENRE]
    if more:
        checks += [(c, "+".join(sweep.fullest[:2])) for c in OF_A_PAIR] + [(c, "concat maxout") for c in OF_A_HEAD]
    return [criterion.judge(sweep, subject) for criterion, subject in checks]


if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit("known_answer.py SWEEP...: name the folders of the sweeps to judge")
    verdicts = [holds for folder in sys.argv[1:] for holds in judge(Path(folder))]
    raise SystemExit(not all(verdicts))
