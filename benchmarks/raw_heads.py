"""The floor of a frozen sweep: one encoding pass by the plain script, then the same heads by a plain loop.

python benchmarks/raw_heads.py ROOT SEEDS PROCESSES LIMIT     from raw files to a leaderboard, and the seconds of each part

Data, sizes, rates and epochs are our defaults. Inputs are standardised on train, with dropout 0.5. D = 256, AdamW 1e-3 with
decay 0.01, batches of 64, 25 epochs. The best epoch has the highest val micro average precision; its score is test micro F1 at
0.5.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import plain

DIM, BATCH, EPOCHS, RATE, DECAY = 256, 64, 25, 1e-3, 0.01
BITS = torch.arange(32)
BOTH = ("text", "image")
JOBS: list[tuple[str, tuple[str, ...]]] = [("none", ("text",)), ("none", ("image",))]
JOBS += [(fusion, BOTH) for fusion in ("mean", "concat", "gmu_original", "gmu_hier", "gmu_softmax")]


class Head(nn.Module):
    """One of the six fusions of one or two vectors, with its linear head."""

    def __init__(self, fusion: str, sizes: list[int], genres: int):
        super().__init__()
        self.fusion = fusion
        self.hidden = nn.ModuleList(nn.Linear(size, DIM) for size in sizes)
        soft = fusion == "gmu_softmax"
        self.transform = nn.ModuleList(nn.Linear(size, DIM) for size in sizes) if soft else None
        self.gate = nn.Linear(DIM if soft else sum(sizes), DIM) if fusion.startswith("gmu") else None
        self.out = nn.Linear(DIM * (len(sizes) if fusion == "concat" else 1), genres)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return logits (B, C)."""
        h = [torch.tanh(layer(x)) for layer, x in zip(self.hidden, inputs, strict=True)]
        if self.fusion == "concat" or len(h) == 1:
            return self.out(torch.cat(h, 1))
        if self.gate is None:
            return self.out((h[0] + h[1]) / 2)
        if self.transform is None:  # original and hier are equal for two modalities
            z = torch.sigmoid(self.gate(torch.cat(inputs, 1)))
        else:
            a, b = (self.gate(layer(x)) for layer, x in zip(self.transform, inputs, strict=True))
            z = torch.sigmoid(a - b)  # a softmax over two
        return self.out(z * h[0] + (1 - z) * h[1])


class Task:
    """Standardised features, labels, and the rows of each split."""

    def __init__(self, features: dict[str, Tensor], labels: Tensor, splits: np.ndarray):
        self.rows = {split: torch.from_numpy(np.flatnonzero(splits == split)) for split in ("train", "val", "test")}
        train = self.rows["train"]
        self.features = {}
        for modality, x in features.items():
            std, mean = torch.std_mean(x[train], dim=0, correction=0)
            self.features[modality] = (x - mean) / torch.where(std > 0, std, 1.0)
        self.labels = labels
        self.weight = (len(train) / labels[train].sum(0)).sqrt()


def trained(task: Task, job: tuple[str, tuple[str, ...]], seed: int) -> float:
    """Train a head, and return its test micro F1 at the best epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    fusion, modalities = job
    inputs = {split: [task.features[m][rows] for m in modalities] for split, rows in task.rows.items()}
    labels = {split: task.labels[rows] for split, rows in task.rows.items()}
    doubled = [2 * x for x in inputs["train"]]  # kept numbers count twice, as one in two is dropped
    net = Head(fusion, [x.shape[1] for x in doubled], task.labels.shape[1])
    weights, biases = ([p for p in net.parameters() if (p.ndim > 1) is is_weight] for is_weight in (True, False))
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    best, score = -1.0, 0.0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(doubled[0])).split(BATCH):
            logits = net([halved(x[rows]) for x in doubled])
            F.binary_cross_entropy_with_logits(logits, labels["train"][rows], pos_weight=task.weight).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            found = average_precision(labels["val"], net(inputs["val"]))
            if found > best:
                best, score = found, f1(labels["test"], net(inputs["test"]))
    return score


def halved(x: Tensor) -> Tensor:
    """Set each number of a tensor to 0 in place, with a chance of one half, by one random bit. Return it."""
    drawn = torch.randint(1 << 32, (-(-x.numel() // BITS.numel()), 1))
    return x.mul_((drawn >> BITS & 1).view(-1)[: x.numel()].view_as(x))


_given: list[Task] = []


def _trained(job: tuple[str, tuple[str, ...]], seed: int) -> float:
    return trained(_given[0], job, seed)


def average_precision(truth: Tensor, logits: Tensor) -> float:
    """Return the micro average precision over all movies and genres; the order of equal logits is arbitrary."""
    ranked = truth.flatten()[logits.flatten().argsort(descending=True)]
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return float((precision * ranked).sum() / ranked.sum())


def f1(truth: Tensor, logits: Tensor) -> float:
    """Return the micro F1 at probability 0.5."""
    positive = (logits >= 0).float()
    return float(2 * (positive * truth).sum() / (positive.sum() + truth.sum()))


def main(root: Path, seeds: int, processes: int, limit: str | None) -> None:
    """Run the whole floor, and print the seconds of each part and the leaderboard."""
    seconds, start = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()

    movies = plain.raw(root, limit)
    lap("read")
    text = plain.text_vectors(plain.tokenised(movies.plots), "torch")
    lap("text")
    fastest = "openvino" if importlib.util.find_spec("openvino") else "torch"
    image = plain.image_vectors(plain.pixels(movies.posters), fastest)
    lap("image")
    train = [genres for genres, split in zip(movies.genres, movies.splits, strict=True) if split == "train"]
    names = sorted({genre for genres in train for genre in genres})
    labels = torch.tensor([[float(name in genres) for name in names] for genres in movies.genres])
    task = Task({"text": text, "image": image}, labels, movies.splits)
    jobs = [(job, seed) for seed in range(1, seeds + 1) for job in JOBS]
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch's compiler, which takes a second
    # Forked processes need no imports and no files of their own; each uses one thread.
    with multiprocessing.get_context("fork").Pool(processes, _given.append, (task,)) as pool:
        found = pool.starmap(_trained, jobs, chunksize=1)
    lap("heads")
    board = {
        f"{fusion} {'+'.join(modalities)}": statistics.mean(s for (j, _), s in zip(jobs, found, strict=True) if j == job)
        for job in JOBS
        for fusion, modalities in [job]
    }
    print(json.dumps({"seconds": seconds, "jobs": len(jobs), "movies": len(labels), "train": len(train), "f1": board}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
