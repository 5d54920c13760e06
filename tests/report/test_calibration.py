"""Calibration errors of probabilities, and the temperature fitted on val."""

from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.report.page.sections import calibration, reliability, temperature
from gmu_lightning.run import Predictions

from .made_runs import GENRES


def predictions(logits: np.ndarray, labels: np.ndarray, split: str = "val") -> Predictions:
    ids = [str(n) for n in range(len(logits))]
    return Predictions(ids, split, GENRES, ("text",), np.ones((len(ids), 1), bool), logits, labels, {})


def drawn(scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated logits times `scale`, and labels drawn from the unscaled ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (3_000, 4))
    return logits * scale, rng.random(logits.shape) < 1 / (1 + np.exp(-logits))


def test_reliability_of_a_worked_example():
    labels = np.array([[True, False], [True, True]])
    found = reliability(labels, np.array([[0.95, 0.15], [0.91, 0.12]]))
    assert found.mean == pytest.approx([0.135, 0.93])
    assert found.true == pytest.approx([0.5, 1.0])
    assert found.error == pytest.approx((0.365 + 0.07) / 2)


def test_probability_one_is_in_the_last_bin():
    assert reliability(np.array([[True]]), np.array([[1.0]])).mean.tolist() == [1.0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_recovers_the_scale_of_logits(scale):
    assert temperature(predictions(*drawn(scale, 1))) == pytest.approx(scale, rel=0.06)


def test_val_temperature_calibrates_test():
    found = calibration(predictions(*drawn(3.0, 1)), predictions(*drawn(3.0, 2), "test"))
    assert found.before.error > 0.08
    assert found.after.error < 0.02


def test_temperature_depends_on_val_only():
    val, test = predictions(*drawn(3.0, 1)), predictions(*drawn(1.0, 2), "test")
    found = calibration(val, test)
    assert found.temperature == pytest.approx(3.0, rel=0.06)
    scaled = 1 / (1 + np.exp(-test.logits / found.temperature))
    assert found.after.error == pytest.approx(reliability(test.labels, scaled).error)
    assert found.after.error > found.before.error
