"""Measure the cost of `compare` for 60 runs (12 settings of 5 seeds), with 8,000 and with 500 test movies.

python benchmarks/comparison.py [--rounds N] [--out FOLDER]

The runs' predictions are random instead of trained; `compare` reads and computes the same amount.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import Options, Report, parser, perform, spread
from benchmarks.workers import Cost, cost
from tests.report.made_runs import Sweep

SETTINGS, SEEDS = 12, 5
GENRES = tuple(f"Genre{n:02d}" for n in range(23))
MOVIES = {"compare": 8_000, "report": 500}


def measure(options: Options) -> Report:
    """Return a report with one row per number of movies."""
    report = Report("Comparing", [])
    for name, movies in MOVIES.items():
        sweep = made(options, name, movies)
        took = [once(options, sweep, name) for _ in range(options.rounds)]
        size = (options.scratch / f"{name}-out/report.html").stat().st_size
        row = {"what": f"{SETTINGS * SEEDS} runs, {movies} test movies, {len(GENRES)} genres"}
        row |= {"CPU s": spread([one.cpu for one in took]), "s": spread([one.wall for one in took])}
        row |= {"peak MB": max(one.peak_mb for one in took), "report.html, MB": size / 1e6}
        report.rows.append(row)
        report.raw[name] = [one._asdict() for one in took]
    return report


def made(options: Options, name: str, movies: int) -> Sweep:
    """Write the runs into the scratch folder `name`, and return them; `movies` are those of test."""
    sweep = Sweep(options.scratch / name, {"val": movies // 3, "test": movies}, GENRES)
    for n in range(SETTINGS):
        for seed in range(1, SEEDS + 1):
            sweep.run("gmu_original" if n % 2 else "concat", seed, 0.8 + 0.05 * n, typed=[f"lr={n}"], lr=n)
    return sweep


def once(options: Options, sweep: Sweep, name: str) -> Cost:
    """Return the cost of one `compare`, start-up included."""
    words = ["-m", "gmu_lightning.compare", f"runs={sweep.folder}", f"output={options.scratch / f'{name}-out'}"]
    return cost(words, options.scratch / f"logs/{name}.txt", options.threads)


if __name__ == "__main__":
    perform({"comparison": measure}, parser(__doc__).parse_args())
