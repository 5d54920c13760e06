"""Fine-tuning in steady state: `train` against the same work by hand on the same batches, and against a notebook's loop.

python tests/benchmarks/fine_tuning.py --data PATH [--rounds N] [--threads N] [--batches "8 movies,2048 tokens"] [--out FOLDER]

MiniLM is trained, EfficientNet-Lite0 frozen, GMU over both. Start-up, first steps, validation and files are in no figure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.harness import Asked, Report, Spread, alternated, parser, perform, ratios, spread
from tests.benchmarks.ours import FINE_TUNING
from tests.benchmarks.raw_bert import MINILM, training_flops
from tests.benchmarks.workers import Worker, cost

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


def measure(asked: Asked, batches: Sequence[str] = tuple(BATCHES)) -> Report:
    """A table with a row per batch and variant, whose ratios are taken round by round."""
    words = [*FINE_TUNING, f"data.root={asked.root()}", *asked.run_words()]
    cost(["tests/benchmarks/ours.py", *words], asked.scratch / "logs/fill.txt", asked.threads)  # the store, once for all
    report = Report("Fine-tuning, steady state", [])
    for batch in batches:
        found = turns_of(asked, batch, [*words, *BATCHES[batch]])
        report.raw[batch] = found
        report.rows += rows_of(batch, found)
    clock = "CPU seconds of the process" if asked.threads == 1 else "seconds of the wall"
    report.notes = [
        f"A second is one of the {clock}. A turn holds at least {TURN} movies; `by hand` trains on the same batches as `ours`, "
        "`notebook` on 8 movies at random, padded to the longest, whatever the batch; its ratios are of movies a second.",
        "Model GFLOP/s: 6 operations per weight of a product and real token, and 12 T d per layer and token of attention; what "
        "is padded, dropped out, looked up or updated counts nothing. The texts of a turn are taken as equally long, which is a "
        "lower bound.",
    ]
    return report


def turns_of(asked: Asked, batch: str, words: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """{variant: its turns}, all variants' processes alive side by side."""
    numbers = [str(TURN), str(asked.threads)]
    commands: dict[str, list[str]] = {}
    for dtype, precision in PRECISIONS.items():
        folder = asked.scratch / "runs" / f"{batch}-{dtype}".replace(" ", "-")
        clock = ["+callbacks.clock._target_=tests.benchmarks.clock.Clock", f"+callbacks.clock.movies={TURN}"]
        clock += [f"+callbacks.clock.threads={asked.threads}", "trainer.progress=none", f"hydra.run.dir={folder}"]
        commands[f"ours {dtype}"] = ["-m", "gmu_lightning.train", *words, *precision, *clock]
        commands[f"by hand {dtype}"] = ["tests/benchmarks/raw_loop.py", dtype, *numbers, *words]
    commands[NOTEBOOK] = ["tests/benchmarks/notebook.py", str(asked.root()), *numbers]
    workers = {
        name: Worker(command, asked.scratch / "logs" / f"{batch}-{name}.txt".replace(" ", "-"), asked.threads)
        for name, command in commands.items()
    }
    try:
        for worker in workers.values():
            worker.turn()  # not measured: whoever starts up slowly would disturb the others' first turn
        return alternated({name: worker.turn for name, worker in workers.items()}, asked.rounds)
    finally:
        for worker in workers.values():
            worker.end()


def rows_of(batch: str, found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Rates of every variant, and ours over the others' in the same round."""
    rows = []
    for name, turns in found.items():
        movies, tokens = (per_second(turns, what) for what in ("movies", "tokens"))
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


def per_second(turns: Sequence[dict[str, float]], what: str) -> list[float]:
    """`what` a second, turn by turn."""
    return [turn[what] / turn["seconds"] for turn in turns]


def model_gflops(turns: Sequence[dict[str, float]]) -> Spread:
    """Billions of the text encoder's model FLOPs a second, turn by turn, as if its texts were equally long."""
    rates = []
    for turn in turns:
        mean = turn["tokens"] / turn["movies"]
        rates.append(turn["movies"] * training_flops([mean], MINILM) / turn["seconds"] / 1e9)
    return spread(rates)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--batches", default=",".join(BATCHES), help="which of them, joined by commas")
    given = options.parse_args()
    perform({"fine_tuning": partial(measure, batches=given.batches.split(","))}, given)
