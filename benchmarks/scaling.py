"""Measure whether a training step's cost grows with the data set, and compare `prepare` with plain decoding.

python benchmarks/scaling.py [--sizes 250,2500,25000] [--data PATH] [--rounds N] [--out FOLDER]

The movies are generated. Frame and sound features pass frozen means; text and poster pass trained encoders.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import plain
from benchmarks.harness import Options, Report, alternated, parser, perform, ratios, seconds_of, spread
from benchmarks.workers import Worker, cost

SIZES = (250, 2_500, 25_000)
BATCH, TURN = 32, 64  # movies; the smallest data set has a turn in every epoch
MANY = 20  # turns per measurement, because one turn takes milliseconds
KINDS = {
    "frozen": ("video+audio", "encoder/video=mean", "encoder/audio=mean"),
    "trained": ("text+image", "encoder/text=tiny", "encoder/image=tiny"),
}


def measure(options: Options, sizes: Sequence[int] = SIZES) -> Report:
    """Return a report with one row per kind and size, and with real movies a row for `prepare`."""
    report = Report("Growing data", [])
    for kind, words in KINDS.items():
        workers = {size: started(options, kind, size, words) for size in sizes}
        try:
            found = alternated({str(size): partial(many, worker) for size, worker in workers.items()}, options.rounds)
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
    if options.data is None:
        report.notes.append("Without --data PATH `prepare` is not compared with decoding.")
    else:
        report.rows.append(preparing(options, report.raw))
    return report


def started(options: Options, kind: str, size: int, words: Sequence[str]) -> Worker:
    """Start a run of `train` on `size` generated movies, which waits for its turn."""
    modalities, *encoders = words
    name = f"{kind}-{size}"
    own = ["data=planted", f"data.modalities={modalities}", f"modalities={modalities}", *encoders, f"data.movies={size}"]
    own += [f"data.batch_size={BATCH}", "trainer.max_epochs=100000", f"hydra.run.dir={options.scratch / 'runs' / name}"]
    own += ["+callbacks.clock._target_=benchmarks.clock.Clock", f"+callbacks.clock.movies={TURN}", "trainer.progress=none"]
    own += [f"+callbacks.clock.threads={options.threads}", *options.run_words(limited=False)]
    log = options.scratch / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Worker(["-m", "gmu_lightning.train", *own], log, options.threads)


def many(worker: Worker) -> dict[str, float]:
    """Return the milliseconds per movie over MANY turns, which exclude validation, and the peak memory."""
    turns = [worker.turn() for _ in range(MANY)]
    taken = sum(turn["seconds"] for turn in turns)
    return {"ms": 1000 * taken / sum(turn["movies"] for turn in turns), "peak_mb": turns[-1]["peak_mb"]}


def preparing(options: Options, raw: dict[str, Any]) -> dict[str, Any]:
    """Return a row that compares `prepare` with a plain loop that decodes and resizes, in posters per CPU second.

    `prepare` uses one worker. The cost of a second call, which finds everything prepared, is subtracted as start-up.
    """
    movies = plain.raw(options.root(), options.limit)

    def ours() -> float:
        words = [f"data.root={options.root()}", "modalities=image", "encoder/image=efficientnet_lite0", "store.workers=1"]
        store = options.scratch / "prepared"
        words += [*options.run_words(), f"store.dir={store}", f"hydra.run.dir={options.scratch / 'runs/prepare'}"]

        def once() -> float:
            return cost(["-m", "gmu_lightning.prepare", *words], options.scratch / "logs/prepare.txt", options.threads).cpu

        if not store.exists():
            once()  # stores the weights' preprocessing settings
        shutil.rmtree(store / "columns")
        return len(movies.posters) / (once() - once())

    def plainly() -> float:
        clock = seconds_of(1)
        start = clock()
        plain.pixels(movies.posters)
        return len(movies.posters) / (clock() - start)

    found = raw["prepare"] = alternated({"ours": ours, "plain": plainly}, options.rounds)
    row: dict[str, Any] = {"encoders": "prepare, posters", "movies": len(movies.posters), "movies/s": spread(found["ours"])}
    return row | {"plain decoding, movies/s": spread(found["plain"]), "ours / plain": ratios(found["ours"], found["plain"])}


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--sizes", default=",".join(map(str, SIZES)), help="movies of each data set")
    given = options.parse_args()
    perform({"scaling": partial(measure, sizes=[int(size) for size in given.sizes.split(",")])}, given)
