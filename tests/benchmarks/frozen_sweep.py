"""Six fusions, three choices of modalities, five seeds: 35 distinct jobs from raw files to a leaderboard, against their floor.

python tests/benchmarks/frozen_sweep.py --data PATH [--launcher processes] [--rounds N] [--limit N] [--out FOLDER]

The floor is one encoding pass by the best plain script and the same 35 heads by a plain loop (`raw_heads`), on as many cores.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.harness import Asked, Report, alternated, parser, perform, ratios, spread
from tests.benchmarks.workers import Cost, cost

SEEDS, PROCESSES, EPOCHS = 5, 2, 25
FUSIONS = "none,mean,concat,gmu_original,gmu_hier,gmu_softmax"
MODALITIES = "text,image,text+image"
JOBS_A_SEED = 7
TEXT_JOBS = IMAGE_JOBS = 6  # of a seed: how many read the modality


def measure(asked: Asked) -> Report:
    """Cold sweep and floor by turns, then what a seed more costs; and what jobs that encode for themselves would cost."""
    sides: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, asked, "cold", SEEDS, fresh=True),
        "floor": partial(floor, asked),
    }
    found: dict[str, list[Any]] = alternated(sides, asked.rounds)
    warm = alternated({f"{seeds} seeds": partial(ours, asked, "warm", seeds, fresh=False) for seeds in (1, SEEDS)}, asked.rounds)
    found |= warm
    walls = [took.wall for took in found["ours"]]
    floors = [took.wall for took, _ in found["floor"]]
    parts = [said["seconds"] for _, said in found["floor"]]
    extra = [(five.wall - one.wall) / (SEEDS - 1) for one, five in zip(warm["1 seeds"], warm[f"{SEEDS} seeds"], strict=True)]
    plain_extra = [part["heads"] / SEEDS for part in parts]
    row = {"what": f"{JOBS_A_SEED * SEEDS} jobs, raw files to leaderboard", "ours, s": spread(walls), "floor, s": spread(floors)}
    row |= {"ours / floor": ratios(walls, floors), "ours CPU s": statistics.median(took.cpu for took in found["ours"])}
    row |= {"floor CPU s": statistics.median(took.cpu for took, _ in found["floor"])}
    row |= {"ours MB": max(took.peak_mb for took in found["ours"]), "floor MB": max(took.peak_mb for took, _ in found["floor"])}
    more = {
        "what": f"a seed more, {JOBS_A_SEED} jobs, features cached",
        "ours, s": spread(extra),
        "floor, s": spread(plain_extra),
    }
    more |= {"ours / floor": ratios(extra, plain_extra)}
    each = {"what": "each job encodes for itself in every epoch", "floor, s": spread([naive(said) for _, said in found["floor"]])}
    each |= {"ours / floor": ratios(walls, [naive(said) for _, said in found["floor"]])}
    note = "The last row is scaled from the floor's own encoding pass: its seconds a movie, times the movies of train, "
    note += f"{EPOCHS} epochs and the jobs that read the modality, on all {PROCESSES} processes; and its heads."
    return Report("A frozen sweep", [row, more, each], [f"launcher: {asked.launcher}, {PROCESSES} jobs at a time.", note], found)


def ours(asked: Asked, name: str, seeds: int, fresh: bool) -> Cost:
    """A sweep by the command line. Ends the program where a job is missing from its leaderboard."""
    store, sweep = asked.scratch / "store", asked.scratch / f"sweeps/{name}-{seeds}"
    shutil.rmtree(sweep, ignore_errors=True)
    if fresh:
        shutil.rmtree(store, ignore_errors=True)
    words = [f"fusion={FUSIONS}", f"modalities={MODALITIES}", f"seed={','.join(str(n) for n in range(1, seeds + 1))}"]
    words += ["encoder/text=minilm", "encoder/image=efficientnet_lite0", f"data.root={asked.root()}", *asked.run_words()]
    words += [f"hydra/launcher={asked.launcher}", f"hydra.sweep.dir={sweep}"]
    if asked.launcher == "processes":
        words.append(f"hydra.launcher.n_jobs={PROCESSES}")
    took = cost(["-m", "gmu_lightning.train", "-m", *words], asked.scratch / f"logs/sweep-{name}.txt", asked.threads)
    states = [json.loads(path.read_text())["state"] for path in sweep.glob("*/status.json")]
    if states.count("finished") != JOBS_A_SEED * seeds:
        raise SystemExit(f"{sweep}: {states.count('finished')} jobs of {JOBS_A_SEED * seeds} finished")
    return took


def floor(asked: Asked) -> tuple[Cost, dict[str, Any]]:
    """The plain script, and what it says of its parts."""
    log = asked.scratch / "logs/floor.txt"
    command = [
        "tests/benchmarks/raw_heads.py",
        str(asked.root()),
        str(SEEDS),
        str(PROCESSES),
        *([asked.limit] if asked.limit else []),
    ]
    took = cost(command, log, PROCESSES)  # it encodes on all cores, and trains on one in each process
    return took, json.loads(log.read_text().splitlines()[-1])


def naive(said: dict[str, Any]) -> float:
    """Seconds of the sweep if every job encoded its own movies of train in every epoch."""
    seconds = said["seconds"]
    share = said["train"] / said["movies"] * EPOCHS * SEEDS
    return share * (TEXT_JOBS * seconds["text"] + IMAGE_JOBS * seconds["image"]) + seconds["heads"]


if __name__ == "__main__":
    perform({"frozen_sweep": measure}, parser(__doc__).parse_args())
