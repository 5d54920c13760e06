"""Which movies stand in which batch: a function of (seed, epoch), and of nothing that has to be stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

# Batches that are sorted by length together: many waste little padding, but an epoch of few such buckets is no shuffle.
BUCKET, FEWEST_BUCKETS = 50, 4


class Batches(Sampler[list[int]]):
    """Lists of row numbers, one a batch.

    Args:
        rows: the rows of the split, in its order.
        size: movies in a batch.
        lengths: tokens per row of the whole data set (N,), where batches of like length save padding.
        tokens: instead of `size`, the most tokens a padded batch may hold (a longer movie stands alone).
        mixed: padding costs nothing, so training batches are drawn whatever the lengths, and `tokens` counts real ones.
        seed: None keeps evaluation's fixed order, shortest first where there are lengths.
        rank, world: this process's share. Batches are repeated rather than leave a process without one; in
            training every process has as many.
    """

    def __init__(
        self,
        rows: np.ndarray,
        size: int,
        lengths: np.ndarray | None = None,
        tokens: int | None = None,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        mixed: bool = False,
    ):
        self.rows, self.size, self.lengths, self.tokens, self.seed = rows, size, lengths, tokens, seed
        self.rank, self.world, self.mixed = rank, world, mixed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch that fall to this process."""
        if self.seed is None:
            rows = self.rows if self.lengths is None else self.rows[np.argsort(self.lengths[self.rows], kind="stable")]
            batches = self._cut(rows)
            return (batches + self._repeated(batches, self.world - len(batches)))[self.rank :: self.world]
        random = np.random.default_rng((self.seed, epoch))
        order = self.rows[random.permutation(len(self.rows))]
        if self.lengths is None or self.mixed:
            batches = self._cut(order)
        else:
            wide = self.size * max(1, min(BUCKET, len(order) // (FEWEST_BUCKETS * self.size)))
            chunks = [order[i : i + wide] for i in range(0, len(order), wide)]
            batches = [b for chunk in chunks for b in self._cut(chunk[np.argsort(self.lengths[chunk], kind="stable")])]
            batches = [batches[i] for i in random.permutation(len(batches))]
        return (batches + self._repeated(batches, -len(batches) % self.world))[self.rank :: self.world]

    @staticmethod
    def _repeated(batches: list[list[int]], count: int) -> list[list[int]]:
        return [batches[i % len(batches)] for i in range(count)]

    def _cut(self, rows: Sequence[int] | np.ndarray) -> list[list[int]]:
        if self.tokens is None or self.lengths is None:
            return [[int(r) for r in rows[i : i + self.size]] for i in range(0, len(rows), self.size)]
        batches: list[list[int]] = []
        held = 0
        for row in rows:
            length = int(self.lengths[row])
            # Padded, whoever comes is the longest of its batch: they come shortest first.
            held = held + length if self.mixed else (len(batches[-1]) + 1 if batches else 1) * length
            if not batches or held > self.tokens:
                batches.append([])
                held = length
            batches[-1].append(int(row))
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches(self.epoch))

    def __len__(self) -> int:
        return len(self.batches(self.epoch))
