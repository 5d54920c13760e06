"""Compare the encoding pass of `train`, per modality and backend, with the best plain script for that backend.

python benchmarks/encoding.py --data PATH [--limit N] [--rounds N] [--threads N] [--out FOLDER]

Tokens and pixels are ready before either starts. Both load the network and run it over every movie once, on the same cores.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import Options, Report, alternated, parser, perform, ratios, spread
from benchmarks.workers import Cost, cost

ENCODERS = {"text": "encoder/text=minilm", "image": "encoder/image=efficientnet_lite0"}
BACKENDS = ("torch", "openvino")


def measure(options: Options) -> Report:
    """Return a report with one row per modality, backend and side."""
    report = Report("One encoding pass", [])
    absent = [name for name in BACKENDS if importlib.util.find_spec(name) is None]
    for modality in ENCODERS:
        for backend in BACKENDS:
            if backend in absent:
                continue
            sides = {"ours": partial(ours, options, modality, backend), "plain": partial(plain, options, modality, backend)}
            found = alternated(sides, options.rounds)
            report.raw[f"{modality} {backend}"] = found
            for name, passes in found.items():
                rates = [movies / seconds for movies, seconds, _ in passes]
                row = {"modality": modality, "backend": backend, "variant": name, "movies/s": spread(rates)}
                if name == "ours":
                    row["ours / plain"] = ratios(rates, [movies / seconds for movies, seconds, _ in found["plain"]])
                row["peak MB"] = max(took.peak_mb for *_, took in passes)
                report.rows.append(row)
    report.notes = [
        f"{options.limit or 'All'} movies, {options.threads} thread(s), wall seconds, including the loading of the network."
    ]
    report.notes += [f"{name} is not installed here, and was left out." for name in absent]
    return report


def ours(options: Options, modality: str, backend: str) -> tuple[int, float, Cost]:
    """Return movies, seconds and cost of a run with a prepared column and without cached features."""
    features, run = options.scratch / "store/features", options.scratch / f"runs/{modality}-{backend}"
    shutil.rmtree(features, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    words = [ENCODERS[modality], f"modalities={modality}", "fusion=none", "trainer.max_epochs=1", f"data.root={options.root()}"]
    words += [*options.run_words(), f"encode.backend={backend}", "trainer.progress=none", f"hydra.run.dir={run}"]
    log = options.scratch / f"logs/{modality}-{backend}-ours.txt"
    if not any((options.scratch / "store/columns").glob(f"{modality}-*")):
        cost(["-m", "gmu_lightning.prepare", *words[:1], words[1], words[4], *options.run_words()], log, options.threads)
    took = cost(["-m", "gmu_lightning.train", *words], log, options.threads, pinned=True)
    seconds = json.loads((run / "metrics.json").read_text())["seconds/encode"]
    audit = json.loads((run / "audit.json").read_text())
    return sum(audit["movies"].values()), seconds, took


def plain(options: Options, modality: str, backend: str) -> tuple[int, float, Cost]:
    """Return movies, seconds and cost of the plain script."""
    log = options.scratch / f"logs/{modality}-{backend}-plain.txt"
    command = ["benchmarks/plain.py", modality, backend, str(options.root()), str(options.threads)]
    command += [options.limit] if options.limit else []
    took = cost(command, log, options.threads, pinned=True)
    found = json.loads(log.read_text().splitlines()[-1])
    return found["movies"], found["seconds"], took


if __name__ == "__main__":
    perform({"encoding": measure}, parser(__doc__).parse_args())
