"""Does a training step's cost grow with the data set? And is `prepare` as fast as decoding?

python tests/benchmarks/scaling.py [--sizes 250,2500,25000] [--data PATH] [--rounds N] [--out FOLDER]

Generated movies: frame and sound features through frozen means, and text and poster through encoders that are trained.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks import plain
from tests.benchmarks.harness import Asked, Report, alternated, parser, perform, ratios, seconds_of, spread
from tests.benchmarks.workers import Worker, cost

SIZES = (250, 2_500, 25_000)
BATCH, TURN = 32, 64  # movies; the smallest data set has a turn in every epoch
MANY = 20  # turns that make one measurement: each alone takes milliseconds
KINDS = {
    "frozen": ("video+audio", "encoder/video=mean", "encoder/audio=mean"),
    "trained": ("text+image", "encoder/text=tiny", "encoder/image=tiny"),
}


def measure(asked: Asked, sizes: Sequence[int] = SIZES) -> Report:
    """A row per kind and size; with real movies one for `prepare` too."""
    report = Report("Growing data", [])
    for kind, words in KINDS.items():
        workers = {size: started(asked, kind, size, words) for size in sizes}
        try:
            found = alternated({str(size): partial(many, worker) for size, worker in workers.items()}, asked.rounds)
        finally:
            for worker in workers.values():
                worker.end()
        report.raw[kind] = found
        smallest = [took["ms"] for took in found[str(sizes[0])]]
        for size, taken in found.items():
            each = [took["ms"] for took in taken]
            row: dict[str, Any] = {
                "encoders": kind,
                "movies": size,
                "ms a movie": spread(each),
                "movies/s": 1000 / spread(each).median,
            }
            row |= {"against the smallest": ratios(each, smallest), "peak MB": max(took["peak_mb"] for took in taken)}
            report.rows.append(row)
    if asked.data is None:
        report.notes.append("Without --data PATH `prepare` is not compared with decoding.")
    else:
        report.rows.append(preparing(asked, report.raw))
    return report


def started(asked: Asked, kind: str, size: int, words: Sequence[str]) -> Worker:
    """A run of `train` on so many generated movies, waiting for its turn."""
    modalities, *encoders = words
    name = f"{kind}-{size}"
    own = ["data=planted", f"data.modalities={modalities}", f"modalities={modalities}", *encoders, f"data.movies={size}"]
    own += [f"data.batch_size={BATCH}", "trainer.max_epochs=100000", f"hydra.run.dir={asked.scratch / 'runs' / name}"]
    own += ["+callbacks.clock._target_=tests.benchmarks.clock.Clock", f"+callbacks.clock.movies={TURN}", "trainer.progress=none"]
    own += [f"+callbacks.clock.threads={asked.threads}", *asked.run_words(limited=False)]
    log = asked.scratch / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Worker(["-m", "gmu_lightning.train", *own], log, asked.threads)


def many(worker: Worker) -> dict[str, float]:
    """Milliseconds a movie over many turns, validation in none of them."""
    turns = [worker.turn() for _ in range(MANY)]
    taken = sum(turn["seconds"] for turn in turns)
    return {"ms": 1000 * taken / sum(turn["movies"] for turn in turns), "peak_mb": turns[-1]["peak_mb"]}


def preparing(asked: Asked, raw: dict[str, Any]) -> dict[str, Any]:
    """Posters a CPU second of `prepare`, one at a time and start-up taken off, against a plain loop that decodes and resizes."""
    movies = plain.raw(asked.root(), asked.limit)

    def ours() -> float:
        words = [f"data.root={asked.root()}", "modalities=image", "encoder/image=efficientnet_lite0", "store.workers=1"]
        store = asked.scratch / "prepared"
        words += [*asked.run_words(), f"store.dir={store}", f"hydra.run.dir={asked.scratch / 'runs/prepare'}"]

        def once() -> float:
            return cost(["-m", "gmu_lightning.prepare", *words], asked.scratch / "logs/prepare.txt", asked.threads).cpu

        if not store.exists():
            once()  # what the weights ask for is known from now on
        shutil.rmtree(store / "columns")
        return len(movies.posters) / (once() - once())

    def plainly() -> float:
        clock = seconds_of(1)
        start = clock()
        plain.pixels(movies.posters)
        return len(movies.posters) / (clock() - start)

    found = raw["prepare"] = alternated({"ours": ours, "plain": plainly}, asked.rounds)
    row: dict[str, Any] = {"encoders": "prepare, posters", "movies": len(movies.posters), "movies/s": spread(found["ours"])}
    return row | {"plain decoding, movies/s": spread(found["plain"]), "ours / plain": ratios(found["ours"], found["plain"])}


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--sizes", default=",".join(map(str, SIZES)), help="movies of each data set")
    given = options.parse_args()
    perform({"scaling": partial(measure, sizes=[int(size) for size in given.sizes.split(",")])}, given)
