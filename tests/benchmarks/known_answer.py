"""Does a sweep on the generated movies find what was planted? Reads runs' files and the truth beside the movies.

python tests/benchmarks/known_answer.py [SWEEP]     the newest of outputs/sweeps unless told; exit 1 where a criterion fails
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gmu_lightning.data.planted import Planted
from gmu_lightning.data.store import Store
from gmu_lightning.run import Predictions, Run, runs_under

GATES = ("gmu_original", "gmu_hier", "gmu_softmax")
OVER_MEAN, OVER_CONCAT, OVER_ALONE = 0.10, 0.08, 0.15
CORRELATION, OWN_GENRE, CHANCE = 0.95, 0.95, 0.05

Found = dict[tuple[str, str, int], Run]


def main() -> None:
    """Print each criterion with its worst seed, and whether it holds."""
    sweep = Path(sys.argv[1]) if sys.argv[1:] else max(Path("outputs/sweeps").iterdir())
    found = {
        (run.config["choices"]["fusion"], run.config["modalities"], run.config["seed"]): run
        for run in runs_under(sweep)
        if run.status["state"] == "finished"
    }
    truth, kinds = planted(next(iter(found.values())))
    failed = 0
    for what, worst, needed, at_least in criteria(found, truth, kinds):
        holds = worst >= needed if at_least else worst <= needed
        failed += not holds
        print(f"{'holds' if holds else 'FAILS'}  {what}: {worst:.3f}, {'at least' if at_least else 'at most'} {needed:.3f}")
    raise SystemExit(bool(failed))


def planted(run: Run) -> tuple[dict[str, str], dict[str, str]]:
    """{movie: the modality that tells the truth} and {genre: switch or modality}."""
    options = {key: value for key, value in run.config["data"].items() if not key.startswith("_")}
    data = Planted(**options)
    data.open(Store(run.config["store"]["dir"]))
    rows = [json.loads(line) for line in (data.raw.root / "truth.jsonl").read_text().splitlines()]
    return {row["id"]: row["switch"] for row in rows}, json.loads((data.raw.root / "genres.json").read_text())


def criteria(found: Found, truth: dict[str, str], kinds: dict[str, str]) -> Iterator[tuple[str, float, float, bool]]:
    """(what, its worst value over seeds, the bound, whether it is a lower one)."""
    seeds = sorted({seed for _, _, seed in found})

    def f1(fusion: str, modalities: str, seed: int) -> float:
        return found[fusion, modalities, seed].metrics["test/f1_micro"]

    both = "text+image"
    for gate in GATES:
        yield f"{gate} over mean, micro F1", min(f1(gate, both, s) - f1("mean", both, s) for s in seeds), OVER_MEAN, True
        yield f"{gate} over concat, micro F1", min(f1(gate, both, s) - f1("concat", both, s) for s in seeds), OVER_CONCAT, True
        alone = min(f1(gate, both, s) - max(f1("none", m, s) for m in both.split("+")) for s in seeds)
        yield f"{gate} over one modality alone, micro F1", alone, OVER_ALONE, True
        correlations = [c for s in seeds for c in gate_correlations(found[gate, both, s].predictions("test"), truth, kinds)]
        yield f"{gate}, gate against the truth, correlation", min(correlations), CORRELATION, True
    for genre, modality in kinds.items():
        if modality == "switch":
            continue
        other = "image" if modality == "text" else "text"
        own = min(f1_of(found[fusion, m, s], genre) for fusion, m, s in found if modality in m.split("+") for s in [s])
        share = found["none", other, seeds[0]].predictions("test").labels
        genres = found["none", other, seeds[0]].predictions("test").genres
        p = float(share[:, genres.index(genre)].mean())
        without = max(f1_of(found["none", other, s], genre) for s in seeds)
        yield f"{genre} ({modality} alone tells) with it, F1", own, OWN_GENRE, True
        yield f"{genre} ({modality} alone tells) without it, F1", without, 2 * p / (1 + p) + CHANCE, False


def f1_of(run: Run, genre: str) -> float:
    """Test F1 of one genre."""
    return run.metrics[f"test/f1/{genre}"]


def gate_correlations(test: Predictions, truth: dict[str, str], kinds: dict[str, str]) -> Iterator[float]:
    """Per modality: its genre-weighted gate, mean over the switch genres, against whether it tells the truth."""
    assert test.gate_by_genre is not None
    switch = [c for c, genre in enumerate(test.genres) if kinds[genre] == "switch"]
    for i, modality in enumerate(test.modalities):
        tells = np.array([truth[movie] == modality for movie in test.ids], dtype=float)
        yield float(np.corrcoef(test.gate_by_genre[:, i, switch].mean(axis=1), tells)[0, 1])


if __name__ == "__main__":
    main()
