"""Compare fine-tuning by `train` with the same work by hand on the same batches, and with a notebook's loop.

python benchmarks/fine_tuning.py --data PATH [--rounds N] [--threads N] [--batches "8 movies,2048 tokens"] [--out FOLDER]

The model is a GMU over a trained MiniLM and a frozen EfficientNet-Lite0. The figures exclude start-up, first steps, validation
and files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import Options, Report, Spread, alternated, parser, perform, ratios, spread
from benchmarks.ours import FINE_TUNING
from benchmarks.raw_bert import MINILM, training_flops
from benchmarks.workers import Worker, cost

BATCHES = {
    "8 movies": ("data.batch_size=8", "data.token_budget=null"),
    "2048 tokens": ("data.token_budget=2048",),
    "4096 tokens": ("data.token_budget=4096",),
}
PRECISIONS = {
    "float32": ("trainer.precision=32-true",),
    "bfloat16": ("trainer.precision=bf16-mixed",),
}
TURN = 96  # movies, at least
NOTEBOOK = "notebook"


def measure(options: Options, batches: Sequence[str] = tuple(BATCHES)) -> Report:
    """Return a report with one row per batch and variant, with ratios taken round by round. Exits for an unknown batch."""
    unknown = [batch for batch in batches if batch not in BATCHES]
    if unknown:
        raise SystemExit(f"--batches has no {', '.join(unknown)}: choose among {', '.join(BATCHES)}")
    words = [*FINE_TUNING, f"data.root={options.root()}", *options.run_words()]
    cost(["benchmarks/ours.py", *words], options.scratch / "logs/fill.txt", options.threads)  # fills the store for all variants
    report = Report("Fine-tuning, steady state", [])
    for batch in batches:
        found = turns_of(options, batch, [*words, *BATCHES[batch]])
        report.raw[batch] = found
        report.rows += rows_of(batch, found)
    clock = "CPU seconds of the process" if options.threads == 1 else "seconds of wall time"
    report.notes = [
        f"Times are {clock}. A turn holds at least {TURN} movies. `by hand` trains on the same batches as `ours`, "
        "drops no attention probabilities, and takes its dropout masks from a bank; `notebook` always trains on 8 random movies, "
        "padded to the longest. Its ratios compare movies per second.",
        "Model GFLOP/s: 6 operations per weight of a product and real token, and 12 T d per layer and token of attention. "
        "Padding, dropout, embeddings and updates are not counted. The texts of a turn are taken as equally long, which gives a "
        "lower bound.",
    ]
    return report


def turns_of(options: Options, batch: str, words: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Return {variant: its turns}, measured with the processes of all variants alive side by side."""
    numbers = [str(TURN), str(options.threads)]
    commands: dict[str, list[str]] = {}
    for dtype, precision in PRECISIONS.items():
        folder = options.scratch / "runs" / f"{batch}-{dtype}".replace(" ", "-")
        clock = ["+callbacks.clock._target_=benchmarks.clock.Clock", f"+callbacks.clock.movies={TURN}"]
        clock += [f"+callbacks.clock.threads={options.threads}", "trainer.progress=none", f"hydra.run.dir={folder}"]
        commands[f"ours {dtype}"] = ["-m", "gmu_lightning.train", *words, *precision, *clock]
        commands[f"by hand {dtype}"] = ["benchmarks/raw_loop.py", dtype, *numbers, *words]
    commands[NOTEBOOK] = ["benchmarks/notebook.py", str(options.root()), *numbers]
    workers = {
        name: Worker(command, options.scratch / "logs" / f"{batch}-{name}.txt".replace(" ", "-"), options.threads)
        for name, command in commands.items()
    }
    try:
        for worker in workers.values():
            worker.turn()  # not measured, because a slow start-up would disturb the first turn of the others
        return alternated({name: worker.turn for name, worker in workers.items()}, options.rounds)
    finally:
        for worker in workers.values():
            worker.end()


def rows_of(batch: str, found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return one row per variant: its rates, and for our variants the ratios to the others in the same round."""
    rows = []
    for name, turns in found.items():
        movies, tokens = (per_second(turns, unit) for unit in ("movies", "tokens"))
        row: dict[str, Any] = {"batch": batch, "variant": name, "movies/s": spread(movies), "tokens/s": spread(tokens).median}
        if name.startswith("ours"):
            dtype = name.split()[1]
            row["ours / by hand"] = ratios(movies, per_second(found[f"by hand {dtype}"], "movies"))
            row["ours / notebook"] = ratios(movies, per_second(found[NOTEBOOK], "movies"))
        row["dtype"] = "float32" if name == NOTEBOOK else name.split()[-1]
        row["model GFLOP/s"] = model_gflops(turns).median
        row["peak MB"] = max(turn["peak_mb"] for turn in turns)
        rows.append(row)
    return rows


def per_second(turns: Sequence[dict[str, float]], unit: str) -> list[float]:
    """Return the number of `unit` (`movies` or `tokens`) per second of each turn."""
    return [turn[unit] / turn["seconds"] for turn in turns]


def model_gflops(turns: Sequence[dict[str, float]]) -> Spread:
    """Return the spread over turns of the text encoder's model GFLOP/s, computed as if all texts were equally long."""
    rates = []
    for turn in turns:
        mean = turn["tokens"] / turn["movies"]
        rates.append(turn["movies"] * training_flops([mean], MINILM) / turn["seconds"] / 1e9)
    return spread(rates)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--batches", default=",".join(BATCHES), help="batches to measure, joined by commas")
    given = options.parse_args()
    perform({"fine_tuning": partial(measure, batches=given.batches.split(","))}, given)
