"""What `compare` costs: 60 runs (12 settings of 5 seeds) on 8,000 movies, and the report of as many on 500.

python tests/benchmarks/comparison.py [--rounds N] [--out FOLDER]

The runs' predictions are drawn, not trained: what is read and computed is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.harness import Asked, Report, parser, perform, spread
from tests.benchmarks.workers import Cost, cost
from tests.report.made import Sweep

SETTINGS, SEEDS = 12, 5
GENRES = tuple(f"Genre{n:02d}" for n in range(23))
MOVIES = {"compare": 8_000, "report": 500}


def measure(asked: Asked) -> Report:
    """A row per size."""
    report = Report("Comparing", [])
    for name, movies in MOVIES.items():
        sweep = Sweep(asked.scratch / name, {"val": movies // 3, "test": movies}, GENRES)
        for n in range(SETTINGS):
            for seed in range(1, SEEDS + 1):
                sweep.run("gmu_original" if n % 2 else "concat", seed, 0.8 + 0.05 * n, typed=[f"lr={n}"], lr=n)
        took = [once(asked, sweep, name) for _ in range(asked.rounds)]
        size = (asked.scratch / f"{name}-out/report.html").stat().st_size
        row = {"what": f"{SETTINGS * SEEDS} runs, {movies} test movies, {len(GENRES)} genres"}
        row |= {"CPU s": spread([one.cpu for one in took]), "s": spread([one.wall for one in took])}
        row |= {"peak MB": max(one.peak_mb for one in took), "report.html, MB": size / 1e6}
        report.rows.append(row)
        report.raw[name] = [one._asdict() for one in took]
    return report


def once(asked: Asked, sweep: Sweep, name: str) -> Cost:
    """The command, start-up included."""
    words = ["-m", "gmu_lightning.compare", f"runs={sweep.folder}", f"output={asked.scratch / f'{name}-out'}"]
    return cost(words, asked.scratch / f"logs/{name}.txt", asked.threads)


if __name__ == "__main__":
    perform({"comparison": measure}, parser(__doc__).parse_args())
