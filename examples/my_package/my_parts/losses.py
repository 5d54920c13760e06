"""An own loss."""

import torch
from torch import nn
from torch.nn import functional as F


class FocalLoss(nn.Module):
    """Binary cross-entropy with small weights for easy cases (Lin et al. 2017, arXiv 1708.02002)."""

    def __init__(self, labels, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, targets):
        cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return ((1 - torch.exp(-cross_entropy)) ** self.gamma * cross_entropy).mean()
