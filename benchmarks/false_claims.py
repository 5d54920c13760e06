"""Count the claims of diagnoses in made worlds whose truth is known.

python benchmarks/false_claims.py [--worlds N] [--seeds N] [--kinds KIND ...]

Each world draws vectors of two modalities and trains small GMUs, of several seeds, until their loss on val is lowest.
- `additive`: every genre depends on a sum of a function of the text and a function of the image. Half of the worlds have
  products within a modality. All movies need the same weights.
- `text`: the same, but the genres depend on the text alone.
- `switch`: a genre is what one of the modalities says, and the difference of two confidences tells which.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

sys.path.insert(0, str(Path(__file__).parents[1]))

from gmu_lightning.diagnosis.crossing import CrossedMovies
from gmu_lightning.diagnosis.study import diagnose
from gmu_lightning.fusion import GMU
from gmu_lightning.movie import Fused
from gmu_lightning.report.diagnosis import METRICS, Combined, combined
from gmu_lightning.report.diagnosis_sentences import gates_weigh, interaction_helps, modality_helps, verdict
from gmu_lightning.run import Predictions

KINDS = ("additive", "text", "switch")
NAMES = ("text", "image")
TRAIN, VAL, TEST = 400, 200, 300
SIZE, DIM, GENRES = 12, 16, 5
STEPS, CHECK, RATE = 200, 10, 0.01
AT_ONCE = 60  # models that are trained together
STILL = torch.ones(1, 2, dtype=torch.bool)


class World(NamedTuple):
    """Vectors (N, M, SIZE) and labels (N, C) of the train, val and test movies, one after the other."""

    x: np.ndarray
    labels: np.ndarray


def additive_world(rng: np.random.Generator, second: bool) -> World:
    """Draw a world whose genres depend on a sum over modalities, or without `second` on the text alone."""
    x = rng.normal(size=(TRAIN + VAL + TEST, 2, SIZE))
    w, left, right = rng.normal(size=(3, 2, SIZE, GENRES)) / np.sqrt(SIZE)
    told = np.einsum("nmd,mdc->nmc", x, w)
    if rng.random() < 0.5:
        told = (told + np.einsum("nmd,mdc->nmc", x, left) * np.einsum("nmd,mdc->nmc", x, right)) / np.sqrt(2)
    share = rng.uniform(0.2, 0.8, GENRES) if second else np.ones(GENRES)
    logits = rng.uniform(1.5, 4) * (np.sqrt(share) * told[:, 0] + np.sqrt(1 - share) * told[:, 1]) - rng.uniform(0, 1.5, GENRES)
    return World(x, rng.random(logits.shape) < 1 / (1 + np.exp(-logits)))


def switch_world(rng: np.random.Generator) -> World:
    """Draw a world in which the more confident modality tells the truth, and the other one something else."""
    count = TRAIN + VAL + TEST
    claims = rng.random((count, 2, GENRES)) < 0.35
    truth, level = rng.integers(2, size=count), rng.integers(4, size=count)
    confidence = level[:, None] + (np.arange(2) == truth[:, None])
    noise = rng.normal(0, 1, (count, 2, SIZE - GENRES - 1))
    x = np.concatenate([2.0 * claims - 1, (confidence - 2.0)[..., None], 0.3 * noise], axis=2)
    return World(x + rng.normal(0, 0.1, x.shape), claims[np.arange(count), truth])


def drawn(kind: str, rng: np.random.Generator) -> World:
    """Draw a world of a kind."""
    return switch_world(rng) if kind == "switch" else additive_world(rng, kind == "additive")


class Unit(nn.Module):
    """A GMU with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = GMU("original", dict.fromkeys(NAMES, SIZE), DIM, bias=True)
        self.head = self.fusion.head(GENRES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of vectors (B, M, SIZE)."""
        fused: Fused = self.fusion(dict(zip(NAMES, x.unbind(dim=1), strict=True)), STILL.expand(len(x), -1))
        return self.head(fused)


def trained(x: Tensor, y: Tensor) -> list[Unit]:
    """Return K trained units, each at its lowest loss on val. x is (K, N, M, SIZE) and y (K, N, C), of train and val movies."""
    units = [Unit() for _ in x]
    state, _ = stack_module_state(units)  # type: ignore[arg-type]
    state = {name: value.detach().clone() for name, value in state.items()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(functional_call(units[0], parameters, (x,)), y)

    slopes, losses = vmap(grad(loss)), vmap(loss)
    optimizer = torch.optim.AdamW(state.values(), lr=RATE, weight_decay=0.01)
    best, lowest = {name: value.clone() for name, value in state.items()}, torch.full((len(x),), float("inf"))
    for step in range(STEPS):
        for name, slope in slopes(state, x[:, :TRAIN], y[:, :TRAIN]).items():
            state[name].grad = slope
        optimizer.step()
        if step % CHECK == CHECK - 1:
            found = losses(state, x[:, TRAIN:], y[:, TRAIN:])
            for name, value in state.items():
                best[name][found < lowest] = value[found < lowest]
            lowest = torch.minimum(found, lowest)
    for k, unit in enumerate(units):
        unit.load_state_dict({name: value[k] for name, value in best.items()})
    return units


def diagnosed(unit: Unit, world: World) -> Combined:
    """Return the diagnosis of one trained unit on the test movies."""
    rows = slice(TRAIN + VAL, None)
    crossed = [_crossed(unit, world.x[part]) for part in (rows, slice(TRAIN, TRAIN + VAL))]
    labels, genres = world.labels[rows], tuple(f"g{c}" for c in range(GENRES))
    logits, present = crossed[0].logits(), crossed[0].present.numpy()
    predictions = Predictions([str(n) for n in range(TEST)], "test", genres, NAMES, present, logits, labels, {})
    return diagnose(crossed[0], predictions, (crossed[1], world.labels[TRAIN : TRAIN + VAL]))


def _crossed(unit: Unit, x: np.ndarray) -> CrossedMovies:
    vectors = {m: torch.from_numpy(x[:, i]).float() for i, m in enumerate(NAMES)}
    return CrossedMovies.of_vectors(unit.fusion, unit.head, vectors, STILL.expand(len(x), -1))


def worlds(kind: str, count: int, seeds: int) -> Iterator[Combined]:
    """Yield the combined diagnoses of some worlds of a kind."""
    at_once = max(1, AT_ONCE // seeds)
    for start in range(0, count, at_once):
        numbers = range(start, min(count, start + at_once))
        made = [drawn(kind, np.random.default_rng((KINDS.index(kind), n))) for n in numbers]
        torch.manual_seed(start)
        x, y = (torch.from_numpy(np.stack([getattr(w, of)[: TRAIN + VAL] for w in made])).float() for of in ("x", "labels"))
        units = trained(x.repeat_interleave(seeds, dim=0), y.repeat_interleave(seeds, dim=0))
        for n, world in enumerate(made):
            yield combined([diagnosed(unit, world) for unit in units[n * seeds : (n + 1) * seeds]])


def claims(of: Combined) -> dict[str, bool]:
    """Return {claim: whether a setting's diagnoses make it}, by micro F1 and by micro AP."""
    found = {}
    for metric in METRICS:
        made = {
            "gates weigh single movies": gates_weigh(of, metric) == "yes",
            "permutation alone": verdict(of.costs[f"gates_permuted/{metric}"]) == "yes",
            "gates have no effect": gates_weigh(of, metric) == "no",
            "interaction helps": interaction_helps(of, metric) == "yes",
            "interaction harms": interaction_helps(of, metric) == "reversed",
            "Shapley value of the image": verdict(of.shapley("image", metric)) == "yes",
        }
        found |= {f"{claim}, {metric}": value for claim, value in made.items()}
    for m in NAMES:
        found |= {f"{m} helps": modality_helps(of, m) == "yes", f"{m} adds nothing": modality_helps(of, m) in ("no", "reversed")}
    return found


def rates(kind: str, count: int, seeds: int = 3) -> dict[str, float]:
    """Return {claim: share of the worlds in which it is made}, and the mean costs in points under their names."""
    counts: Counter[str] = Counter()
    for of in worlds(kind, count, seeds):
        counts.update({claim: int(value) for claim, value in claims(of).items()})
        counts.update({f"mean cost of {key}": 100 * cost.mean for key, cost in of.costs.items()})
    return {claim: value / count for claim, value in counts.items()}


def main() -> None:
    """Print the rates of all kinds of worlds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--worlds", type=int, default=200)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    given = options.parse_args()
    for kind in given.kinds:
        start = time.process_time()
        found = rates(kind, given.worlds, given.seeds)
        print(f"{kind}: {given.worlds} worlds, {given.seeds} seeds, {time.process_time() - start:.0f} s of CPU")
        for claim, rate in found.items():
            print(f"  {claim}: {rate:.2f} points" if claim.startswith("mean") else f"  {claim}: {rate:.1%}")


if __name__ == "__main__":
    main()
