"""Probabilities against what came true, and the temperature that val chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from gmu_lightning.report.calibration import calibration, reliability, temperature
from gmu_lightning.run import Predictions

from .made import GENRES


def said(logits: np.ndarray, labels: np.ndarray, split: str = "val") -> Predictions:
    ids = [str(n) for n in range(len(logits))]
    return Predictions(ids, split, GENRES, ("text",), np.ones((len(ids), 1), bool), logits, labels, {})


def drawn(scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels as likely as the logits say, and the logits times `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (3_000, 4))
    return logits * scale, rng.random(logits.shape) < 1 / (1 + np.exp(-logits))


def test_a_worked_example():
    labels = np.array([[True, False], [True, True]])
    found = reliability(labels, np.array([[0.95, 0.15], [0.91, 0.12]]))
    assert found.said == pytest.approx([0.135, 0.93])
    assert found.true == pytest.approx([0.5, 1.0])
    assert found.counts.tolist() == [2, 2]
    assert found.error == pytest.approx((0.365 + 0.07) / 2)


def test_the_error_is_torchmetrics_s():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.random((200, 4)) < 0.3, rng.random((200, 4))
    as_torch = (torch.from_numpy(x.ravel()) for x in (probabilities, labels.astype(int)))
    expected = binary_calibration_error(*as_torch, n_bins=10, norm="l1")
    assert reliability(labels, probabilities).error == pytest.approx(float(expected), abs=1e-6)


def test_probability_one_is_in_the_last_bin():
    assert reliability(np.array([[True]]), np.array([[1.0]])).counts.tolist() == [1]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_logits_that_are_too_large_are_divided_by_as_much(scale):
    assert temperature(said(*drawn(scale, 1))) == pytest.approx(scale, rel=0.06)


def test_the_temperature_of_val_mends_test():
    found = calibration(said(*drawn(3.0, 1)), said(*drawn(3.0, 2), "test"))
    assert found.before.error > 0.08
    assert found.after.error < 0.02


def test_the_temperature_is_val_s_whatever_test_would_ask_for():
    val, test = said(*drawn(3.0, 1)), said(*drawn(1.0, 2), "test")
    found = calibration(val, test)
    assert found.temperature == pytest.approx(3.0, rel=0.06)
    scaled = 1 / (1 + np.exp(-test.logits / found.temperature))
    assert found.after.error == pytest.approx(reliability(test.labels, scaled).error)
    assert found.after.error > found.before.error
