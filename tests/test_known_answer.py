"""On planted vectors of three modalities, gates with a linear head follow the switch; other fusions with one do not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gmu_lightning.data.planted.content import Plan, draw

CONF = Path(__file__).parents[1] / "conf"
GATES = ("gmu_original", "gmu_hier", "gmu_softmax")
MODALITIES = ("text", "video", "audio")
MOVIES, IN_TRAIN, LEVELS = 2400, 1600, 5
DIM, EPOCHS, BATCH, RATE = 32, 60, 64, 1e-2

each_gate = pytest.mark.parametrize("gate", GATES)
each_seed = pytest.mark.parametrize("seed", (1, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in (2, 3))))


class Outcome(NamedTuple):
    """Scores on the movies outside train."""

    f1_micro: float
    f1: dict[str, float]
    chance: dict[str, float]  # per genre, F1 of predicting it for every movie
    correlation: tuple[float, ...]  # per modality m, correlation of its gate with 1[s = m]; empty without gates


class PlantedVectors(NamedTuple):
    """A plan, and {modality: (N, 32) float32}, vectors that hold the modality's claims and confidence."""

    inputs: dict[str, np.ndarray]
    plan: Plan


def planted_vectors(movies: int, seed: int) -> PlantedVectors:
    """Return vectors of claims (-1 or 1) and centred confidence, mixed at random, plus Gaussian noise."""
    rng = np.random.default_rng(seed)
    plan = draw(movies, MODALITIES, LEVELS, rng)
    inputs = {}
    for m, name in enumerate(MODALITIES):
        claims = plan.claims[:, m, [kind in ("switch", name) for kind in plan.kinds.values()]]
        shown = np.column_stack([2.0 * claims - 1.0, plan.confidence[:, m] - (LEVELS - 1) / 2])  # (N, claims + 1)
        mixed = shown @ rng.normal(size=(shown.shape[1], 32)) / np.sqrt(shown.shape[1])
        inputs[name] = (mixed + 0.05 * rng.normal(size=mixed.shape)).astype(np.float32)
    return PlantedVectors(inputs, plan)


class Classifier(nn.Module):
    def __init__(self, fusion: str, head: str, sizes: dict[str, int], genres: int):
        super().__init__()
        choice = yaml.safe_load((CONF / "fusion" / f"{fusion}.yaml").read_text()) | {"dim": DIM, "head": head}
        self.normalise = nn.ModuleDict({m: nn.LayerNorm(size) for m, size in sizes.items()})
        self.fusion = instantiate(choice)(sizes=sizes)
        self.head = self.fusion.head(genres)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, C) and gates (B, M, D) of {modality: (B, d)}."""
        fused = self.fusion({m: self.normalise[m](x) for m, x in inputs.items()})
        return self.head(fused), fused.gates


@cache
def outcome(fusion: str, modalities: tuple[str, ...], seed: int, head: str = "linear") -> Outcome:
    data = planted_vectors(MOVIES, seed)
    inputs = {m: torch.from_numpy(data.inputs[m]) for m in modalities}
    labels = torch.from_numpy(data.plan.labels)
    torch.manual_seed(seed)
    model = Classifier(fusion, head, {m: x.shape[1] for m, x in inputs.items()}, labels.shape[1])
    train(model, {m: x[:IN_TRAIN] for m, x in inputs.items()}, labels[:IN_TRAIN].float())
    model.eval()
    with torch.no_grad():
        logits, gates = model({m: x[IN_TRAIN:] for m, x in inputs.items()})
        correlation = follows(data.plan.rows(np.arange(IN_TRAIN, MOVIES)), gates, model.head.weight) if fusion in GATES else ()
    kinds, actual, predicted = data.plan.kinds, labels[IN_TRAIN:].numpy(), (logits >= 0).numpy()
    share = actual.mean(axis=0)
    f1 = 2 * (predicted & actual).sum(axis=0) / (predicted.sum(axis=0) + actual.sum(axis=0))
    return Outcome(
        f1_micro=2 * (predicted & actual).sum() / (predicted.sum() + actual.sum()),
        f1=dict(zip(kinds, f1, strict=True)),
        chance=dict(zip(kinds, 2 * share / (1 + share), strict=True)),
        correlation=correlation,
    )


def follows(plan: Plan, gates: Tensor, weight: Tensor) -> tuple[float, ...]:
    """Return each modality's correlation of 1[s = m] with its gate, weighted by |w_ck| and averaged over switch genres."""
    importance = weight[[kind == "switch" for kind in plan.kinds.values()]].abs()  # (C, D)
    importance = importance / importance.sum(dim=1, keepdim=True)
    gate = (gates @ importance.T).mean(dim=2).numpy()  # (B, M)
    return tuple(np.corrcoef(gate[:, m], plan.switch == m)[0, 1] for m in range(gate.shape[1]))


def train(model: Classifier, inputs: dict[str, Tensor], labels: Tensor) -> None:
    weight = labels.mean(dim=0).rsqrt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * len(labels) // BATCH)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            logits, _ = model({m: x[rows] for m, x in inputs.items()})
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(logits, labels[rows], pos_weight=weight).backward()
            optimizer.step()
            schedule.step()


def kinds() -> dict[str, str]:
    return planted_vectors(1, seed=0).plan.kinds


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@each_seed
@each_gate
def test_gates_beat_fusions_without_gates(gate: str, seed: int) -> None:
    score = outcome(gate, MODALITIES, seed).f1_micro
    assert score >= outcome("mean", MODALITIES, seed).f1_micro + 0.10
    assert score >= outcome("concat", MODALITIES, seed).f1_micro + 0.08
    assert score >= outcome("self_gate", MODALITIES, seed).f1_micro + 0.08


@each_seed
def test_maxout_head_follows_the_switch_without_a_gate(seed: int) -> None:
    assert outcome("concat", MODALITIES, seed, head="maxout").f1_micro >= 0.95


@each_seed
@each_gate
def test_gates_beat_every_single_modality(gate: str, seed: int) -> None:
    score = outcome(gate, MODALITIES, seed).f1_micro
    assert all(score >= outcome("none", (m,), seed).f1_micro + 0.15 for m in MODALITIES)


@each_seed
@each_gate
def test_genre_weighted_gates_follow_the_switch(gate: str, seed: int) -> None:
    correlation = outcome(gate, MODALITIES, seed).correlation
    assert len(correlation) == 3
    assert min(correlation) > 0.95


@each_seed
@each_gate
def test_gates_predict_genres_of_one_modality(gate: str, seed: int) -> None:
    f1 = outcome(gate, MODALITIES, seed).f1
    assert all(f1[genre] >= 0.95 for genre, kind in kinds().items() if kind != "switch")


@each_seed
@pytest.mark.parametrize("modality", MODALITIES)
def test_genres_of_one_modality_are_at_chance_without_it(modality: str, seed: int) -> None:
    alone = outcome("none", (modality,), seed)
    assert all(alone.f1[genre] >= 0.95 for genre, kind in kinds().items() if kind == modality)
    others = [genre for genre, kind in kinds().items() if kind not in ("switch", modality)]
    assert all(alone.f1[genre] <= alone.chance[genre] + 0.05 for genre in others)
