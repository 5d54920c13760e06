"""Training methods that balance the modalities: changed gradients, or a loss for each modality beside the loss of them all.

Both read unimodal logits, the prediction of one modality by itself (`LinearHead.unimodal`, `MixtureHead.unimodal`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gmu_lightning.config.ranges import FromZero, NotNegative
from gmu_lightning.decisions import Task
from gmu_lightning.movie import Prediction, UserError

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (B, C), targets (B, C) -> scalar


class Split(NamedTuple):
    """The model's output in training for a method that reads unimodal logits."""

    logits: Tensor  # (B, C)
    unimodal: Tensor  # (B, M, C), without meaning where the modality is absent
    present: Tensor  # (B, M) bool, the modalities that modality dropout left


class PlainTraining:
    """Train on the loss of the fused prediction alone. The other methods derive from this class.

    Attributes:
        splits: whether the method reads unimodal logits.
        modulates: whether it changes gradients.
    """

    splits: ClassVar[bool] = False
    modulates: ClassVar[bool] = False

    def loss(self, loss: Loss, found: Prediction | Split, targets: Tensor) -> Tensor:
        """Return the loss that is minimised, a scalar.

        Args:
            loss: of the run.
            found: output of the model, a `Split` if the method reads unimodal logits.
            targets: (B, C).
        """
        return loss(found.logits, targets)

    def scores(self, found: Prediction | Split, targets: Tensor, task: Task) -> Tensor:
        """Return what `modulate` needs to know about a batch, without gradient. Batches of one update are added.

        Returns:
            (M, 2); (0, 2) for a method that changes no gradient.
        """
        return targets.new_zeros(0, 2)

    def is_active(self, epoch: int) -> bool:
        """Return whether gradients are changed in an epoch, counted from 0."""
        return False

    def modulate(self, scores: Tensor, gradients: Sequence[Sequence[Tensor]], generator: torch.Generator) -> None:
        """Change the gradients of an update in place.

        Args:
            scores: (M, 2), the sum over the update's batches.
            gradients: for each of M modalities, those of the weights that serve it alone.
            generator: of the random numbers, on the gradients' device.
        """


class UnimodalLoss(PlainTraining):
    """L = 1/B sum over movies of l(z) + weight * sum over P of l(u_m), where z are the fused logits, and u_m those of modality m.

    A joint loss with weighted losses of the single modalities is the set-up of Wang et al. 2020 (arXiv 1905.12681, equation 3),
    here with one fixed weight. The losses add with weight 1 in the uniform baseline of Wei & Hu 2024
    (github.com/GeWu-Lab/MMPareto_ICML2024, uniform_baseline.py), which gives each modality a head of its own. Here u_m is the
    modality's part of the common head, as in github.com/GeWu-Lab/BalanceBenchmark (GBlending_trainer.py). So the model has no
    further weights. An absent modality has no loss of its own, and gets no gradient.

    The value that history.csv records counts l(z) in place of l(u_m) where a modality is absent.

    Args:
        weight: of the sum of the modalities' losses; 0 trains as `training=none` does.
    """

    splits = True

    def __init__(self, weight: NotNegative = 1.0):
        self.weight = weight

    def loss(self, loss: Loss, found: Prediction | Split, targets: Tensor) -> Tensor:
        """Return the loss of the fused logits plus `weight` times the sum over modalities of the loss of their own logits."""
        assert isinstance(found, Split)
        # Rows of absent modalities hold a constant, since a loss is a mean over all rows.
        own = torch.where(found.present[..., None], found.unimodal, found.logits.detach()[:, None])  # (B, M, C)
        return loss(found.logits, targets) + self.weight * torch.stack([loss(u, targets) for u in own.unbind(dim=1)]).sum()


class OGMGE(PlainTraining):
    """On-the-fly gradient modulation with generalisation enhancement (OGM-GE, Peng et al. 2022, arXiv 2203.15332).

    s_m is the mean probability of the true labels of a batch in the prediction by modality m alone. It comes from the softmax for
    `multiclass`, as published, and from the sigmoid for `multilabel`. rho_m = mean over other modalities n of s_m / s_n. The
    coefficient is k_m = 1 - tanh(alpha rho_m) if rho_m > 1, else 1. The gradient g of each weight of modality m becomes
    k_m g + e, where e is normal noise with the standard deviation of g. For two modalities these are the published equations and
    code (github.com/GeWu-Lab/OGM-GE_CVPR2022, main.py). For more, the authors propose the mean of the pairwise ratios (issue 16
    there), which github.com/GeWu-Lab/BalanceBenchmark calls OGM_GE3.

    The weights of a modality are the matrices and kernels of its encoder, of its normaliser, and of the fusion's layers of that
    modality, such as `hidden.text`. As in the published code, biases stay unchanged. So do gates and heads that serve several
    modalities. Movies that lack a modality do not enter its score. A modality without any movie in the batch has k_m = 1, and is
    left out of the other ratios.

    Args:
        alpha: strength of the modulation; 0 changes no gradient but for the noise.
        noise: whether to add e.
        starts, ends: first and last epoch with changed gradients, counted from 0; null: the last epoch of the run.

    Raises:
        UserError: `ends` is before `starts`.
    """

    splits = modulates = True

    def __init__(self, alpha: NotNegative = 0.3, noise: bool = True, starts: FromZero = 0, ends: FromZero | None = None):
        if ends is not None and ends < starts:
            raise UserError(f"training.ends={ends} is before training.starts={starts}: give a later epoch, or null for the last")
        self.alpha, self.noise, self.starts, self.ends = alpha, noise, starts, ends

    def scores(self, found: Prediction | Split, targets: Tensor, task: Task) -> Tensor:
        """Return for each modality the sum and the number of the probabilities of true labels, (M, 2)."""
        assert isinstance(found, Split)
        logits = found.unimodal.detach()
        probabilities = torch.softmax(logits, dim=-1) if task == "multiclass" else torch.sigmoid(logits)  # (B, M, C)
        counted = targets[:, None] * found.present[..., None]  # (B, M, C)
        return torch.stack([(counted * probabilities).sum(dim=(0, 2)), counted.sum(dim=(0, 2))], dim=-1)

    def is_active(self, epoch: int) -> bool:
        """Return whether the epoch lies between `starts` and `ends`."""
        return self.starts <= epoch and (self.ends is None or epoch <= self.ends)

    def coefficients(self, scores: Tensor) -> Tensor:
        """Return k (M,) of scores (M, 2)."""
        total, count = scores.unbind(dim=-1)
        mean = total / count.clamp_min(1)  # (M,)
        ratios = mean[:, None] / mean.clamp_min(torch.finfo(mean.dtype).tiny)
        seen = count > 0
        others = seen[:, None] & seen & ~torch.eye(len(mean), dtype=torch.bool, device=mean.device)  # (M, M)
        rho = torch.where(others, ratios, 0.0).sum(dim=1) / others.sum(dim=1).clamp_min(1)
        return torch.where(rho > 1, 1 - torch.tanh(self.alpha * rho), 1.0)

    @torch.no_grad()
    def modulate(self, scores: Tensor, gradients: Sequence[Sequence[Tensor]], generator: torch.Generator) -> None:
        """Multiply the gradients of each modality by its coefficient, and add noise."""
        for coefficient, own in zip(self.coefficients(scores), gradients, strict=True):
            for gradient in own:
                deviation = gradient.std(correction=min(1, gradient.numel() - 1)) + 1e-8
                gradient.mul_(coefficient)
                if self.noise:
                    drawn = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=gradient.dtype)
                    gradient.add_(drawn * deviation)
