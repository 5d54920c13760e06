"""Measure the CPU seconds of `train --help`, `train --cfg job` and quickstart jobs.

python benchmarks/start_up.py [--rounds N] [--out FOLDER]
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import Options, Report, alternated, parser, perform, spread
from benchmarks.workers import Cost, cost

VARIANTS = {
    "train --help": ["--help"],
    "train --cfg job": ["--cfg", "job"],
    "a job, mean": ["fusion=mean"],
    "a job, concat": ["fusion=concat"],
    "a job, gmu_original": ["fusion=gmu_original"],
    "a job, gmu_softmax": ["fusion=gmu_softmax"],
}


def measure(options: Options) -> Report:
    """Return a report with one row per command."""
    command(options, VARIANTS["a job, mean"])  # generates and prepares the movies of all jobs
    found = alternated({name: partial(command, options, words) for name, words in VARIANTS.items()}, options.rounds)
    rows = [
        {"command": name, "CPU s": spread([took.cpu for took in taken]), "peak MB": max(took.peak_mb for took in taken)}
        for name, taken in found.items()
    ]
    return Report("Starting up", rows, [f"Jobs of experiment=quickstart, {options.threads} thread(s)."], found)


def command(options: Options, words: list[str]) -> Cost:
    """Return the cost of one `train`."""
    run = options.scratch / "runs/start-up"
    shutil.rmtree(run, ignore_errors=True)
    shared = ["experiment=quickstart", "trainer.progress=none", f"hydra.run.dir={run}"]
    ours = ["-m", "gmu_lightning.train", *shared, *options.run_words(limited=False), *words]
    return cost(ours, options.scratch / "logs/start-up.txt", options.threads)


if __name__ == "__main__":
    perform({"start_up": measure}, parser(__doc__).parse_args())
