"""Measure on a planted imbalance how far each training method raises the Shapley value of the weak modality.

python benchmarks/balance.py [--seeds N] [--folder FOLDER]

The image shows each genre along one direction of 500 numbers, and is wrong for some movies. The metadata tell more: the product
of two of their six numbers has the sign of a genre. Gradients find the direction long before they find the product.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import table

METHODS = ("none", "ogm_ge", "unimodal_loss")
STRONG, WEAK = "image", "metadata"
GENRES = ("Crime", "Drama", "War")
SPLITS = {"train": 1000, "val": 500, "test": 1000}
CLEAR = {STRONG: 0.85, WEAK: 0.95}  # probability that a modality shows a genre as it is
WORDS = (
    *("data=files", f"modalities={STRONG}+{WEAK}", f"encoder/{STRONG}=vector", f"encoder/{WEAK}=vector", "fusion=concat"),
    *(f"encoder.{STRONG}.dropout=0", f"encoder.{WEAK}.dropout=0", "fusion.dim=32", "loss.pos_weight=none"),
    *("optimizer.lr=3e-3", "trainer.max_epochs=60", "trainer.threads=1", "hydra/launcher=stacked"),
)


def write_movies(folder: Path, seed: int = 0) -> Path:
    """Write the movies as a table and arrays, and return the table."""
    draw = np.random.default_rng(seed)
    count, genres = sum(SPLITS.values()), len(GENRES)
    labels = np.zeros((count, genres), dtype=bool)
    while not (some := labels.any(axis=1)).all():
        labels[~some] = draw.random((int((~some).sum()), genres)) < 0.4
    shown = {m: np.where(draw.random(labels.shape) < p, labels, draw.random(labels.shape) < 0.4) for m, p in CLEAR.items()}
    directions = np.linalg.qr(draw.standard_normal((500, genres)))[0].T
    images = draw.standard_normal((count, 500)) + 3 * (2 * shown[STRONG] - 1) @ directions
    sign = draw.choice([-1.0, 1.0], size=labels.shape)
    pair = np.concatenate([1.5 * sign, 1.5 * sign * (2 * shown[WEAK] - 1)], axis=1)
    numbers = pair + 0.5 * draw.standard_normal(pair.shape)
    splits = [name for name, size in SPLITS.items() for _ in range(size)]
    (folder / "images").mkdir(parents=True)
    with (folder / "movies.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", "genres", "image", *(f"number{n}" for n in range(2 * genres))])
        for n in range(count):
            np.save(folder / f"images/{n}.npy", images[n].astype(np.float32))
            names = "|".join(genre for genre, yes in zip(GENRES, labels[n], strict=True) if yes)
            rows.writerow([f"m{n}", splits[n], names, f"images/{n}.npy", *numbers[n].round(4)])
    return folder / "movies.csv"


def command(name: str, *arguments: str, folder: Path) -> None:
    """Run a command of the package in a folder. Exits if it fails."""
    subprocess.run([sys.executable, "-m", f"gmu_lightning.{name}", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def evaluate_all(sweep: Path, store: Path) -> None:
    """Score every run of a sweep on all subsets of the modalities, as `evaluate robustness=true` does."""
    from gmu_lightning.data.store import Store
    from gmu_lightning.experiment.evaluate import evaluate
    from gmu_lightning.run import runs_under

    for run in runs_under(sweep):
        with redirect_stdout(StringIO()):
            evaluate(run, "test", None, "0.5", Store(store), robustness_seed=0)


def shapley(run: Path) -> dict[str, float]:
    """Return the exact Shapley value of each modality for the test micro AP of a run, over all subsets of the two modalities."""
    (file,) = run.glob("evaluate/*/robustness.csv")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    value = {frozenset(row["subset"].split("+")): float(row["ap_micro"]) for row in rows if row["kind"] == "subset"}
    (nothing,) = (row for row in rows if row["kind"] == "share" and row["modality"] == "all" and float(row["share"]) == 1)
    value[frozenset()] = float(nothing["ap_micro"])
    both = value[frozenset((STRONG, WEAK))]
    alone = {m: value[frozenset((m,))] for m in (STRONG, WEAK)}
    return {m: (alone[m] - value[frozenset()] + both - alone[other]) / 2 for m, other in ((STRONG, WEAK), (WEAK, STRONG))}


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval over seeds (Student's t)."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}]"


def rows_of(sweep: Path, seeds: Sequence[int]) -> Iterator[dict[str, str]]:
    """Yield the table's row of each method, with differences from plain training of the same seed."""
    from gmu_lightning.run import runs_under

    runs = {(run.config["choices"]["training"], run.config["seed"]): run for run in runs_under(sweep)}
    values = {key: shapley(run.folder) for key, run in runs.items()}
    for method in METHODS:
        row = {"training": method, "test micro AP": interval([runs[method, seed].metrics["test/ap_micro"] for seed in seeds])}
        row |= {f"Shapley value of {m}": interval([values[method, seed][m] for seed in seeds]) for m in (STRONG, WEAK)}
        more = [values[method, seed][WEAK] - values["none", seed][WEAK] for seed in seeds]
        yield row | {f"{WEAK}: more than none": interval(more) if method != "none" else ""}


def main() -> None:
    """Train, evaluate, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    seeds = list(range(1, given.seeds + 1))
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.folder or Path(scratch)).absolute()
        store, sweep = f"store.dir={folder / 'store'}", folder / "sweep"
        where = (f"data.root={write_movies(folder / 'movies')}", store, f"hydra.sweep.dir={sweep}")
        for method in METHODS:
            own = ["training.alpha=1"] if method == "ogm_ge" else []
            words = (f"training={method}", *own, f"seed={','.join(map(str, seeds))}")
            command("train", "-m", *WORDS, *where, *words, folder=folder)
        evaluate_all(sweep, folder / "store")
        print(table(list(rows_of(sweep, seeds))))


if __name__ == "__main__":
    main()
