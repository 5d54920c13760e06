"""Compare a sweep of 35 jobs, from raw files to a leaderboard, with the least work that gives the same scores (the floor).

python benchmarks/frozen_sweep.py --data PATH [--launcher processes] [--rounds N] [--limit N] [--out FOLDER]

The jobs are six fusions, three choices of modalities and five seeds. The floor is one encoding pass by the best plain script and
the same 35 heads by a plain loop (`raw_heads`), on the same number of cores.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import Options, Report, alternated, parser, perform, ratios, spread
from benchmarks.workers import Cost, cost

SEEDS, PROCESSES, EPOCHS = 5, 2, 25
FUSIONS = "none,mean,concat,gmu_original,gmu_hier,gmu_softmax"
MODALITIES = "text,image,text+image"
JOBS_A_SEED = 7
TEXT_JOBS = IMAGE_JOBS = 6  # number of jobs per seed that read the modality


def measure(options: Options) -> Report:
    """Return a report with three rows: the cold sweep, one more seed, and a sweep whose jobs encode for themselves."""
    sides: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, options, "cold", SEEDS, fresh=True),
        "floor": partial(floor, options),
    }
    found = alternated(sides, options.rounds)
    warm = alternated(
        {f"{seeds} seeds": partial(ours, options, "warm", seeds, fresh=False) for seeds in (1, SEEDS)}, options.rounds
    )
    found |= warm
    walls = [took.wall for took in found["ours"]]
    floors = [took.wall for took, _ in found["floor"]]
    parts = [output["seconds"] for _, output in found["floor"]]
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
    uncached = [seconds_without_cache(output) for _, output in found["floor"]]
    each = {"what": "each job encodes for itself in every epoch", "floor, s": spread(uncached)}
    each |= {"ours / floor": ratios(walls, uncached)}
    note = "The last row is scaled from the floor's encoding pass: its seconds per movie, times the movies of train, "
    note += f"{EPOCHS} epochs and the jobs that read the modality, on all {PROCESSES} processes, plus its heads."
    return Report(
        "A frozen sweep", [row, more, each], [f"launcher: {options.launcher}, {PROCESSES} jobs at a time.", note], found
    )


def ours(options: Options, name: str, seeds: int, fresh: bool) -> Cost:
    """Return the cost of a sweep by the command line. Exits if a job did not finish."""
    store, sweep = options.scratch / "store", options.scratch / f"sweeps/{name}-{seeds}"
    shutil.rmtree(sweep, ignore_errors=True)
    if fresh:
        shutil.rmtree(store, ignore_errors=True)
    words = [f"fusion={FUSIONS}", f"modalities={MODALITIES}", f"seed={','.join(str(n) for n in range(1, seeds + 1))}"]
    words += ["encoder/text=minilm", "encoder/image=efficientnet_lite0", f"data.root={options.root()}", *options.run_words()]
    words += [f"hydra/launcher={options.launcher}", f"hydra.sweep.dir={sweep}"]
    if options.launcher == "processes":
        words.append(f"hydra.launcher.n_jobs={PROCESSES}")
    took = cost(["-m", "gmu_lightning.train", "-m", *words], options.scratch / f"logs/sweep-{name}.txt", options.threads)
    states = [json.loads(path.read_text())["state"] for path in sweep.glob("*/status.json")]
    if states.count("finished") != JOBS_A_SEED * seeds:
        raise SystemExit(f"{sweep}: {states.count('finished')} jobs of {JOBS_A_SEED * seeds} finished")
    return took


def floor(options: Options) -> tuple[Cost, dict[str, Any]]:
    """Return the cost of the plain script and its output: seconds of its parts, numbers of movies and jobs, scores."""
    log = options.scratch / "logs/floor.txt"
    command = [
        "benchmarks/raw_heads.py",
        str(options.root()),
        str(SEEDS),
        str(PROCESSES),
        *([options.limit] if options.limit else []),
    ]
    took = cost(command, log, PROCESSES)  # encodes on all cores, and trains on one core per process
    return took, json.loads(log.read_text().splitlines()[-1])


def seconds_without_cache(output: dict[str, Any]) -> float:
    """Return the seconds of the floor's sweep if every job encoded its train movies in every epoch."""
    seconds = output["seconds"]
    share = output["train"] / output["movies"] * EPOCHS * SEEDS
    return share * (TEXT_JOBS * seconds["text"] + IMAGE_JOBS * seconds["image"]) + seconds["heads"]


if __name__ == "__main__":
    perform({"frozen_sweep": measure}, parser(__doc__).parse_args())
