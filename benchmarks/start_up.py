"""Measure how long a user waits: for pages, for `compare`, for a run's first epoch, and for the first leaderboard of the demo.

python benchmarks/start_up.py [--rounds N] [--out FOLDER]

Each row also names the package whose own modules take longest to import, over all processes of the command.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.comparison import SEEDS, SETTINGS, made
from benchmarks.harness import REPOSITORY, Options, Report, alternated, parser, perform, spread
from benchmarks.workers import Cost, cost

TRAIN = ("-m", "gmu_lightning.train")
DEMO = "the demo's first leaderboard, 21 jobs"
MOVIES = 500  # test movies of the runs that are compared
IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\w+)", re.M)  # microseconds of a module itself, and its package


def measure(options: Options, only: str = "") -> Report:
    """Return a report with one row per command. The demo, which takes a minute, is measured in one round, with its imports.

    Args:
        only: a part of the names of the commands to measure; empty for all.
    """
    sweep = made(options, "waiting", MOVIES)
    commands: dict[str, list[str]] = {
        "train --help": [*TRAIN, "--help"],
        "train --cfg job": [*TRAIN, "--cfg", "job"],
        "info": ["-m", "gmu_lightning.info"],
        f"compare, {SETTINGS * SEEDS} runs": [
            *("-m", "gmu_lightning.compare", f"runs={sweep.folder}", f"output={options.scratch / 'waiting-out'}")
        ],
        "train to the first epoch": [
            *(*TRAIN, "experiment=smoke", "trainer.progress=none", *options.run_words(limited=False)),
            *("+callbacks.first._target_=benchmarks.clock.EndAtFirstEpoch", f"hydra.run.dir={options.scratch / 'runs/first'}"),
        ],
        "train, smoke": [
            *(*TRAIN, "experiment=smoke", "trainer.progress=none", *options.run_words(limited=False)),
            f"hydra.run.dir={options.scratch / 'runs/smoke'}",
        ],
    }
    chosen = [name for name in commands if only in name]
    if not chosen and only not in DEMO:
        raise SystemExit(f"no command's name holds --only={only}: choose among {', '.join([*commands, DEMO])}")
    waits: dict[str, Callable[[], Cost]] = {name: partial(waiting, options, commands[name]) for name in chosen}
    for wait in waits.values():
        wait()  # generates movies, and reads every file once
    found = alternated(waits, options.rounds)
    imports = {name: largest_import(options, commands[name]) for name in chosen}
    if only in DEMO:
        found |= alternated({DEMO: lambda: waiting(options, demo(options), profiled=True)}, 1)
        imports[DEMO] = largest_in_log(options)
    rows = []
    for name, taken in found.items():
        row = {"command": name, "CPU s": spread([took.cpu for took in taken]), "s": spread([took.wall for took in taken])}
        rows.append(row | {"largest import": imports[name], "peak MB": max(took.peak_mb for took in taken)})
    notes = [f"{options.threads} thread(s) for each run. The largest import is the sum over a package's own modules."]
    return Report("Waiting times", rows, notes, found)


def demo(options: Options) -> list[str]:
    """Return the arguments of the first part of `make demo`."""
    make = (REPOSITORY / "Makefile").read_text()
    line = re.search(r"experiment=quickstart hydra\.sweep\.dir=\S+ \\\n\s+(\S+ \S+)", make)
    assert line is not None
    own = [f"hydra.sweep.dir={options.scratch / 'runs/demo'}", f"store.dir={options.scratch / 'demo-store'}"]
    return [*TRAIN, "-m", "hydra/launcher=stacked", "seed=1,2,3", "experiment=quickstart", *own, *line[1].split()]


def waiting(options: Options, words: list[str], profiled: bool = False) -> Cost:
    """Return the cost of a command, whose runs and sweeps begin anew."""
    shutil.rmtree(options.scratch / "runs", ignore_errors=True)
    before = ["-X", "importtime"] if profiled else []
    return cost([*before, *words], options.scratch / "logs/waiting.txt", options.threads)


def largest_import(options: Options, words: list[str]) -> str:
    """Run a command once more, and return the package whose modules take longest to import, such as `torch 1.2 s of 2.0 s`."""
    waiting(options, words, profiled=True)
    return largest_in_log(options)


def largest_in_log(options: Options) -> str:
    """Return the largest import of the command that was profiled last."""
    seconds: Counter[str] = Counter()
    for taken, package in IMPORT.findall((options.scratch / "logs/waiting.txt").read_text()):
        seconds[package] += int(taken)
    package, most = seconds.most_common(1)[0]
    return f"{package} {most / 1e6:.2f} s of {seconds.total() / 1e6:.2f} s"


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--only", default="", help="measure the commands whose names hold this text, such as demo")
    given = options.parse_args()
    perform({"start_up": partial(measure, only=given.only)}, given)
