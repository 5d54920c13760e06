"""What torch lacks: multilabel losses whose weights come from the train labels alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.movie import UserError

POLICIES = ("none", "sqrt", "inverse")


def pos_weights(labels: np.ndarray, policy: str) -> Tensor:
    """Weight of a genre's positives, (C,) float32, from the train labels (N, C): 1, sqrt(N / n_pos) or N / n_pos.

    Raises:
        UserError: the policy is unknown.
        ValueError: a genre has no positive.
    """
    if policy not in POLICIES:
        raise UserError(f"loss.pos_weight={policy} does not exist: choose one of {', '.join(POLICIES)}")
    positives = np.asarray(labels).sum(axis=0)
    if not positives.all():
        raise ValueError("a genre without a positive in train has no weight")
    ratio = torch.from_numpy(len(labels) / positives)
    return (ratio ** {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[policy]).float()


class WeightedBCE(nn.Module):
    """Binary cross-entropy, mean over movies and genres; positives weigh `pos_weight`.

    Args:
        labels: train labels (N, C), bool.
        pos_weight: `none`, `sqrt` or `inverse`.
    """

    weight: Tensor

    def __init__(self, labels: np.ndarray, pos_weight: str = "sqrt"):
        super().__init__()
        self.register_buffer("weight", pos_weights(labels, pos_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B, C) -> scalar."""
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.weight)


class AsymmetricLoss(nn.Module):
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119): easy negatives count for little, very easy ones for nothing.

    Args:
        labels: train labels; not used, every loss is made alike.
        gamma_pos, gamma_neg: focusing of positives and negatives.
        clip: the probability that is taken off a negative.
    """

    def __init__(self, labels: np.ndarray, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05):
        super().__init__()
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B, C) -> scalar."""
        p = torch.sigmoid(logits)
        shifted = (p - self.clip).clamp_min(0.0)
        focus = torch.exp(self.gamma_pos * F.logsigmoid(-logits))  # (1 - p) ** gamma_pos, whose slope at p = 1 may be infinite
        positive = focus * F.logsigmoid(logits)
        negative = shifted**self.gamma_neg * torch.log1p(-shifted.clamp_max(1 - 1e-7))
        return -torch.where(targets > 0.5, positive, negative).mean()
