"""The losses. Their weights come from the train labels alone."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.config.ranges import NotNegative, Probability
from gmu_lightning.decisions import Task

Policy = Literal["none", "sqrt", "inverse"]


def pos_weights(labels: np.ndarray, policy: Policy) -> Tensor:
    """Return the weight of each genre's positives, (C,) float32, from the train labels (N, C) bool.

    Args:
        labels: (N, C) bool, of train.
        policy: `none` gives 1, `sqrt` gives sqrt(N / n_pos), `inverse` gives N / n_pos.

    Raises:
        ValueError: a genre has no positive.
    """
    positives = np.asarray(labels).sum(axis=0)
    if not positives.all():
        raise ValueError("a genre without a positive in train has no weight")
    ratio = torch.from_numpy(len(labels) / positives)
    return (ratio ** {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[policy]).float()


class WeightedBCE(nn.Module):
    """Binary cross-entropy, averaged over movies and genres, with weighted positives.

    Args:
        labels: train labels (N, C), bool.
        pos_weight: the policy of `pos_weights`: `none`, `sqrt` or `inverse`.

    Raises:
        ValueError: a genre has no positive.

    Attributes:
        tasks: values of `data.task` that a loss is for. A loss without `tasks` is for `multilabel`.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multilabel",)
    weight: Tensor

    def __init__(self, labels: np.ndarray, pos_weight: Policy = "sqrt"):
        super().__init__()
        self.register_buffer("weight", pos_weights(labels, pos_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B, C) -> scalar."""
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.weight)


class CrossEntropy(nn.Module):
    """Cross-entropy of the softmax, averaged over movies that have exactly one genre.

    Args:
        labels: train labels (N, C), bool.
        class_weight: factor of each genre's movies, by the policy of `pos_weights`: `none`, `sqrt` or `inverse`.

    Raises:
        ValueError: a genre has no positive.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    weight: Tensor

    def __init__(self, labels: np.ndarray, class_weight: Policy = "none"):
        super().__init__()
        self.register_buffer("weight", pos_weights(labels, class_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B, C) -> scalar."""
        return F.cross_entropy(logits, targets, weight=self.weight)


class AsymmetricLoss(nn.Module):
    """Asymmetric loss, averaged over movies and genres (Ridnik et al. 2021, arXiv 2009.14119).

    Easy negatives get small weights, and negatives with a probability below `clip` get weight 0.

    Args:
        labels: train labels; unused, but every loss takes them.
        gamma_pos, gamma_neg: focusing exponents of positives and negatives.
        clip: subtracted from the probability of each negative.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multilabel",)

    def __init__(self, labels: np.ndarray, gamma_pos: NotNegative = 0.0, gamma_neg: NotNegative = 4.0, clip: Probability = 0.05):
        super().__init__()
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B, C) -> scalar."""
        p = torch.sigmoid(logits)
        shifted = (p - self.clip).clamp_min(0.0)
        focus = torch.exp(self.gamma_pos * F.logsigmoid(-logits))  # (1 - p) ** gamma_pos, written with finite gradients
        positive = focus * F.logsigmoid(logits)
        negative = shifted**self.gamma_neg * torch.log1p(-shifted.clamp_max(1 - 1e-7))
        return -torch.where(targets > 0.5, positive, negative).mean()
