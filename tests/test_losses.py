"""Losses have known values, weights from the train labels, and finite gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmu_lightning.losses import AsymmetricLoss, CrossEntropy, WeightedBCE, pos_weights

LABELS = np.array([[True, True], [True, False], [True, False], [True, False]])


@pytest.mark.parametrize(("policy", "expected"), [("none", [1, 1]), ("sqrt", [1, 2]), ("inverse", [1, 4])])
def test_weights_follow_the_genre_s_rarity(policy, expected):
    weights = pos_weights(LABELS, policy)
    assert weights.dtype == torch.float32
    assert weights.tolist() == expected


def test_genre_without_a_positive_is_refused():
    with pytest.raises(ValueError, match="without a positive in train"):
        pos_weights(np.array([[True, False]]), "inverse")


def test_weighted_bce_averages_over_movies_and_genres():
    loss = WeightedBCE(LABELS, "inverse")(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx((np.log(2) + 4 * np.log(2)) / 2)


def test_weights_are_buffers():
    loss = WeightedBCE(LABELS, "sqrt")
    assert not list(loss.parameters())
    assert loss.state_dict()["weight"].tolist() == [1, 2]


def test_asymmetric_loss_follows_the_paper_s_formula():
    p = np.array([0.3, 0.8, 0.02])
    logits = torch.from_numpy(np.log(p / (1 - p)))[None]
    loss = AsymmetricLoss(LABELS, gamma_pos=1.0, gamma_neg=4.0, clip=0.05)
    expected = [
        -(0.7**1) * np.log(0.3),
        -(0.75**4) * np.log(1 - 0.75),
        0.0,  # a negative below the clip has weight 0
    ]
    for c, targets in enumerate(([1.0, 0, 0], [0, 0, 0], [0, 0, 0])):
        one = loss(logits[:, c : c + 1], torch.tensor(targets[:1], dtype=torch.float64)[None])
        assert one.item() == pytest.approx(expected[c], abs=1e-12)


def test_asymmetric_loss_without_focus_equals_cross_entropy():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    found = AsymmetricLoss(LABELS, gamma_pos=0, gamma_neg=0, clip=0)(logits, targets)
    assert found.item() == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item(), rel=1e-5)


ONE_LABEL = np.array([[True, False, False], [False, True, False], [True, False, False], [False, False, True]])


def test_cross_entropy_equals_torch_s():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64)
    found = CrossEntropy(ONE_LABEL).double()(logits, torch.from_numpy(ONE_LABEL).double())
    assert found.item() == pytest.approx(F.cross_entropy(logits, torch.tensor([0, 1, 0, 2])).item())


def test_cross_entropy_weighs_the_movies_of_a_genre():
    loss, each = CrossEntropy(ONE_LABEL, "inverse"), torch.eye(3)
    costs = [loss(torch.zeros(1, 3), each[c : c + 1]).item() for c in range(3)]
    assert costs == pytest.approx([2 * np.log(3), 4 * np.log(3), 4 * np.log(3)])


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1000.0, -100.0, 0.0, 100.0, 1000.0])
@pytest.mark.parametrize(
    "loss",
    [
        WeightedBCE(LABELS, "inverse"),
        CrossEntropy(LABELS, "inverse"),
        *(
            AsymmetricLoss(LABELS, *options)
            for options in [(0, 4, 0.05), (1, 4, 0.0), (0, 0, 0.0), (0.5, 0.5, 0.05), (0.5, 0.5, 0.0)]
        ),
    ],
)
def test_loss_and_gradient_are_finite_for_extreme_logits(loss, logit, target):
    logits = torch.full((1, 2), logit, requires_grad=True)
    value = loss(logits, torch.full((1, 2), target))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [WeightedBCE(LABELS), AsymmetricLoss(LABELS), CrossEntropy(LABELS)])
def test_right_predictions_cost_less(loss):
    targets = torch.tensor([[1.0, 0.0]])
    assert loss(torch.tensor([[2.0, -2.0]]), targets) < loss(torch.tensor([[-2.0, 2.0]]), targets)
