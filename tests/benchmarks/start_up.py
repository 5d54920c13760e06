"""CPU seconds of looking at a command, and of one quickstart job.

python tests/benchmarks/start_up.py [--rounds N] [--out FOLDER]
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.harness import Asked, Report, alternated, parser, perform, spread
from tests.benchmarks.workers import Cost, cost

VARIANTS = {
    "train --help": ["--help"],
    "train --cfg job": ["--cfg", "job"],
    "a job, mean": ["fusion=mean"],
    "a job, concat": ["fusion=concat"],
    "a job, gmu_original": ["fusion=gmu_original"],
    "a job, gmu_softmax": ["fusion=gmu_softmax"],
}


def measure(asked: Asked) -> Report:
    """A row per command."""
    command(asked, VARIANTS["a job, mean"])  # generates and prepares the movies that all jobs read
    found = alternated({name: partial(command, asked, words) for name, words in VARIANTS.items()}, asked.rounds)
    rows = [
        {"command": name, "CPU s": spread([took.cpu for took in taken]), "peak MB": max(took.peak_mb for took in taken)}
        for name, taken in found.items()
    ]
    return Report("Starting up", rows, [f"Jobs of experiment=quickstart, {asked.threads} thread(s)."], found)


def command(asked: Asked, words: list[str]) -> Cost:
    """One `train`."""
    run = asked.scratch / "runs/start-up"
    shutil.rmtree(run, ignore_errors=True)
    shared = ["experiment=quickstart", "trainer.progress=none", f"hydra.run.dir={run}"]
    ours = ["-m", "gmu_lightning.train", *shared, *asked.run_words(limited=False), *words]
    return cost(ours, asked.scratch / "logs/start-up.txt", asked.threads)


if __name__ == "__main__":
    perform({"start_up": measure}, parser(__doc__).parse_args())
