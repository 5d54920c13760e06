"""Choices that meet first in a whole run: each trains, is recorded, and changes nothing that it should not."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gmu_lightning.experiment.conf import choices_of
from gmu_lightning.run import Run

GROUPS = ("loss", "optimizer", "scheduler", "callbacks")
SMALL_BATCHES = "data.batch_size=8"  # five to an epoch


def history(run: Run) -> list[dict[str, float]]:
    header, *rows = (line.split(",") for line in (run / "history.csv").read_text().splitlines())
    return [dict(zip(header, map(float, row), strict=True)) for row in rows]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def same(one: Run, other: Run) -> bool:
    """Predictions and weights, bit for bit."""
    logits = [run.predictions("test").logits for run in (one, other)]
    states = [weights(run) for run in (one, other)]
    return np.array_equal(*logits) and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.fixture(scope="module")
def plain(train) -> Run:
    """Two epochs of five batches."""
    return train(SMALL_BATCHES)


@pytest.mark.parametrize("fusion", choices_of("fusion"))
def test_every_fusion_is_trained_and_what_it_can_tell_is_recorded(fusion, train):
    run = train(f"fusion={fusion}", f"modalities={'text' if fusion == 'none' else 'text+image'}", "trainer.max_epochs=1")
    test, metrics = run.predictions("test"), run.metrics
    columns = pq.read_schema(run / "predictions/test.parquet").names
    exact = fusion in ("none", "mean", "concat", "sum") or fusion.startswith("gmu_")
    gated = fusion in ("mean",) or fusion.startswith("gmu_")
    assert metrics["contributions_exact"] is exact
    assert any(name.startswith("contribution/") for name in columns) is exact
    assert any(name.startswith("gate/") for name in columns) is gated
    assert (run / "gates/by_genre.parquet").exists() is gated
    if exact:
        assert test.bias + test.contributions.sum(axis=1) == pytest.approx(test.logits, abs=1e-5)
    assert metrics["parameters/fusion"] > 0


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in choices_of(group)])
def test_every_loss_optimizer_scheduler_and_callback_trains(choice, train):
    run = train(choice, SMALL_BATCHES)
    assert [row["step"] for row in history(run)] == [5, 10]
    assert all(np.isfinite(list(row.values())).all() for row in history(run))
