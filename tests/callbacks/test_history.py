"""Warnings about a run that has not learned, on short histories."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from gmu_lightning.callbacks import Epochs, train_share_scores
from gmu_lightning.callbacks.history import SHOWN

SHARES = {"val/ap_micro": 0.4, "val/f1_micro": 0.3}


def codes(losses: list[float], ap: list[float], monitor: str = "val/ap_micro", f1: list[float] | None = None) -> list[str]:
    """Return the codes of a run's warnings, from its train losses and val scores by epoch."""
    epochs = Epochs(None)
    for n, loss in enumerate(losses):
        found = {f"val/{name}": 0.5 for name in SHOWN} | {"val/ap_micro": ap[n], "val/f1_micro": ap[n] if f1 is None else f1[n]}
        epochs.add(n, n, 1.0, 1e-3, loss, found)
    return [sentence.split(":")[0] for sentence in epochs.warnings(monitor, SHARES)]


@pytest.mark.parametrize(
    ("losses", "ap", "expected"),
    [
        ([0.9, 0.5, 0.3], [0.5, 0.6, 0.55], []),
        ([0.9, 0.9, 0.89], [0.5, 0.6, 0.6], ["flat_loss"]),
        ([0.9, 0.5, 0.3], [0.3, 0.4, 0.39], ["not_above_shares"]),
        ([0.9, 0.5, 0.3], [0.6, 0.5, 0.59], ["falling_val"]),
        ([0.9, 0.5, 0.3], [0.6, 0.6, 0.5], []),
        ([0.9, 0.9, 0.9], [0.3, 0.2, 0.1], ["flat_loss", "not_above_shares", "falling_val"]),
        ([0.9, 0.9], [0.3, 0.2], []),
    ],
)
def test_warnings_follow_the_train_loss_and_the_val_score(losses, ap, expected):
    assert codes(losses, ap) == expected


def test_average_precision_is_checked_with_any_monitor():
    assert codes([0.9, 0.5, 0.3], [0.3, 0.3, 0.3], "val/f1_micro", [0.4, 0.5, 0.6]) == ["not_above_shares"]
    assert codes([0.9, 0.5, 0.3], [0.5, 0.6, 0.6], "val/f1_micro", [0.1, 0.2, 0.3]) == ["not_above_shares"]


def test_train_share_scores_use_one_prediction_for_all():
    rng = np.random.default_rng(0)
    train, val = rng.random((50, 3)) < [0.7, 0.3, 0.1], rng.random((20, 3)) < [0.7, 0.3, 0.1]
    found = train_share_scores(train, val, ("Drama", "War", "Music"))
    shares = np.tile(train.mean(axis=0), (20, 1))
    assert found["val/ap_micro"] == pytest.approx(average_precision_score(val, shares, average="micro"))
    hits, drama = val[:, 0].sum(), 20  # only Drama's share reaches .5
    assert found["val/f1_micro"] == pytest.approx(2 * hits / (drama + val.sum()))
