"""The encoding pass of `train`, per modality and backend, against the best plain script for that backend.

python tests/benchmarks/encoding.py --data PATH [--limit N] [--rounds N] [--threads N] [--out FOLDER]

Tokens and pixels are there before either starts; both load the network and run it over every movie once, on the same cores.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.harness import Asked, Report, alternated, parser, perform, ratios, spread
from tests.benchmarks.workers import Cost, cost

ENCODERS = {"text": "encoder/text=minilm", "image": "encoder/image=efficientnet_lite0"}
BACKENDS = ("torch", "onnxruntime", "openvino")


def measure(asked: Asked) -> Report:
    """A row per modality, backend and side."""
    report = Report("One encoding pass", [])
    absent = [name for name in BACKENDS if importlib.util.find_spec(name) is None]
    for modality in ENCODERS:
        for backend in BACKENDS:
            if backend in absent:
                continue
            sides = {"ours": partial(ours, asked, modality, backend), "plain": partial(plain, asked, modality, backend)}
            found = alternated(sides, asked.rounds)
            report.raw[f"{modality} {backend}"] = found
            for name, passes in found.items():
                rates = [movies / seconds for movies, seconds, _ in passes]
                row = {"modality": modality, "backend": backend, "variant": name, "movies/s": spread(rates)}
                if name == "ours":
                    row["ours / plain"] = ratios(rates, [movies / seconds for movies, seconds, _ in found["plain"]])
                row["peak MB"] = max(took.peak_mb for *_, took in passes)
                report.rows.append(row)
    report.notes = [
        f"{asked.limit or 'All'} movies, {asked.threads} thread(s), seconds of the wall, loading the network among them."
    ]
    report.notes += [f"{name} is not installed here, and was left out." for name in absent]
    return report


def ours(asked: Asked, modality: str, backend: str) -> tuple[int, float, Cost]:
    """Movies, seconds and cost of a run whose column is prepared and whose features are not there."""
    features, run = asked.scratch / "store/features", asked.scratch / f"runs/{modality}-{backend}"
    shutil.rmtree(features, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    words = [ENCODERS[modality], f"modalities={modality}", "fusion=none", "trainer.max_epochs=1", f"data.root={asked.root()}"]
    words += [*asked.run_words(), f"encode.backend={backend}", "trainer.progress=none", f"hydra.run.dir={run}"]
    log = asked.scratch / f"logs/{modality}-{backend}-ours.txt"
    if not any((asked.scratch / "store/columns").glob(f"{modality}-*")):
        cost(["-m", "gmu_lightning.prepare", *words[:1], words[1], words[4], *asked.run_words()], log, asked.threads)
    took = cost(["-m", "gmu_lightning.train", *words], log, asked.threads, pinned=True)
    seconds = json.loads((run / "metrics.json").read_text())["seconds/encode"]
    audit = json.loads((run / "audit.json").read_text())
    return sum(audit["movies"].values()), seconds, took


def plain(asked: Asked, modality: str, backend: str) -> tuple[int, float, Cost]:
    """Movies, seconds and cost of the plain script."""
    log = asked.scratch / f"logs/{modality}-{backend}-plain.txt"
    command = ["tests/benchmarks/plain.py", modality, backend, str(asked.root()), str(asked.threads)]
    command += [asked.limit] if asked.limit else []
    took = cost(command, log, asked.threads, pinned=True)
    found = json.loads(log.read_text().splitlines()[-1])
    return found["movies"], found["seconds"], took


if __name__ == "__main__":
    perform({"encoding": measure}, parser(__doc__).parse_args())
