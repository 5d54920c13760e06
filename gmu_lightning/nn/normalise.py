"""Normalise one modality's vectors before fusion. The scales are learned from train alone, without absent rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def make(kind: str, dim: int) -> nn.Module:
    """Return the normalisation of a kind, a module of x (B, dim) and present (B,) bool that returns (B, dim).

    The values of absent rows in the result have no meaning.

    Args:
        kind: `none`, `layer`, `batch` or `standardise`.
        dim: size of the vectors.
    """
    return {"none": Unchanged, "layer": Layer, "batch": Batch, "standardise": Standardise}[kind](dim)


class Unchanged(nn.Module):
    """Return x unchanged."""

    def __init__(self, dim: int):
        super().__init__()

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        return x


class Layer(nn.LayerNorm):
    """Mean 0 and variance 1 over each movie's features, then a learned scale and shift (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Tensor, present: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Batch(nn.BatchNorm1d):
    """Mean 0 and variance 1 over the present movies of a batch (Ioffe & Szegedy 2015, arXiv 1502.03167).

    1e-4 is added to the variance, as in Blocks, the library of Arevalo et al. 2017 (blocks/bricks/bn.py, line 131). A training
    batch with fewer than two present movies has no variance. It is scaled by the running statistics, and leaves them unchanged.
    """

    def __init__(self, dim: int):
        super().__init__(dim, eps=1e-4)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:  # type: ignore[override]
        rows = x[present]
        if self.training and len(rows) < 2:
            normalised = nn.functional.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        else:
            normalised = super().forward(rows)
        out = torch.zeros(x.shape, dtype=normalised.dtype, device=x.device)
        return out.masked_scatter(present[:, None], normalised)


class Standardise(nn.Module):
    """Subtract each feature's mean over train, and divide by its standard deviation over train.

    A constant feature is only centred. A feature counts as constant if its standard deviation is at most 1e-7 times its largest
    absolute value, or 1e-7 times the median standard deviation.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("fitted", torch.tensor(False))
        self._known = False  # copy of `fitted` that needs no transfer from the device at every step

    @torch.no_grad()
    def fit(self, chunks: Iterable[Tensor]) -> Standardise:
        """Learn mean and standard deviation, merging chunks by the formula of Chan et al. (1983).

        Args:
            chunks: (n, dim) each, the present rows of train.

        Returns:
            The module itself.

        Raises:
            ValueError: there is no row, or a row is not finite.
        """
        count, broken = 0, 0
        mean, squares, largest = (torch.zeros(self.mean.shape, dtype=torch.float64) for _ in range(3))
        for chunk in chunks:
            broken += int((~torch.isfinite(chunk)).any(1).sum())
            x = chunk.double().cpu()
            total = count + len(x)
            if not len(x):
                continue
            center = x.mean(dim=0)
            off = center - mean
            squares += (x - center).square().sum(dim=0) + off**2 * (count * len(x) / total)
            mean += off * (len(x) / total)
            largest = torch.maximum(largest, x.abs().amax(dim=0))
            count = total
        if not count or broken:
            raise ValueError(f"cannot standardise on {count} rows, {broken} of them not finite")
        std = (squares / count).sqrt()
        # Rounding gives constant and dead features a tiny standard deviation.
        constant = std <= 1e-7 * torch.maximum(largest, std.median())
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(constant, 1.0))
        self.fitted.fill_(True)
        return self

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        if not self._known:
            self.look()
        return (x - self.mean) / self.std

    def look(self) -> None:
        """Check that the module is fitted, which reads from the device. Raises RuntimeError.

        `forward` calls it until it succeeds.
        """
        self._known = bool(self.fitted)
        if not self._known:
            raise RuntimeError("standardise was not fitted on train")
