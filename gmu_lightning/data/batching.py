"""Assign movies to batches, as a function of seed and epoch alone, so that a resumed run needs no stored state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

# Number of batches that are sorted by length together: a larger bucket saves padding, and an epoch needs several to be shuffled.
BUCKET, FEWEST_BUCKETS = 50, 4


class Batches(Sampler[tuple[list[int], float]]):
    """Sampler of batches, each a list of row numbers and the weight of its mean loss.

    Args:
        rows: (n,) int, rows of the split, in its order.
        size: number of movies in a batch.
        lengths: (N,) int, number of tokens of each row of the data set, for batches of similar length; None for random batches.
        tokens: instead of `size`, largest number of tokens in a padded batch; a longer movie is a batch of its own. It is ignored
            without `lengths`.
        seed: of the random order; None for the fixed order of evaluation, which is the shortest first if there are `lengths`.
        rank: number of this process, from 0.
        world: number of processes. In training, all have the same number of batches, and the weighted mean over the processes is
            the mean over the movies of one update. In evaluation, some batches are repeated so that each process has one.
        mixed: whether batches mix lengths and `tokens` counts real tokens only, because padding is free.

    Attributes:
        epoch: to iterate over.
        start: number of its first batches to leave out, where a run continues within an epoch. `len` counts them.
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
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate over."""
        self.epoch = epoch

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch for this process."""
        return [rows for rows, _ in self.parts(epoch)]

    def parts(self, epoch: int) -> list[tuple[list[int], float]]:
        """Return the batches of an epoch for this process, each with its weight.

        In training, the processes divide the movies of each update. A process that gets none repeats one with weight 0.
        """
        if self.seed is None:
            rows = self.rows if self.lengths is None else self.rows[np.argsort(self.lengths[self.rows], kind="stable")]
            batches = self._cut(rows)
            repeated = [batches[i % len(batches)] for i in range(self.world - len(batches))]
            return [(batch, 1.0) for batch in (batches + repeated)[self.rank :: self.world]]
        found = []
        for update in self._updates(np.random.default_rng((self.seed, epoch))):
            mine = update[self.rank :: self.world]
            found.append((mine or update[:1], len(mine) * self.world / len(update)))
        return found

    def _updates(self, random: np.random.Generator) -> list[list[int]]:
        """Return the training batches of an epoch, each the movies of all processes."""
        size = self.size * self.world
        order = self.rows[random.permutation(len(self.rows))]
        if self.lengths is None or self.mixed:
            return self._cut(order, self.world)
        wide = size * max(1, min(BUCKET, len(order) // (FEWEST_BUCKETS * size)))
        chunks = [order[i : i + wide] for i in range(0, len(order), wide)]
        batches = [b for chunk in chunks for b in self._cut(chunk[np.argsort(self.lengths[chunk], kind="stable")], self.world)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _cut(self, rows: Sequence[int] | np.ndarray, world: int = 1) -> list[list[int]]:
        """Cut rows into batches that `world` processes share."""
        if self.tokens is None or self.lengths is None:
            size = self.size * world
            return [[int(r) for r in rows[i : i + size]] for i in range(0, len(rows), size)]
        batches: list[list[int]] = []
        held = 0
        for row in rows:
            length = int(self.lengths[row])
            # With padding, each row is the longest so far of its batch, because the shortest come first.
            count = len(batches[-1]) + 1 if batches else 1
            held = held + length if self.mixed else -(-count // world) * length
            if not batches or held > (self.tokens * world if self.mixed else self.tokens):
                batches.append([])
                held = length
            batches[-1].append(int(row))
        return batches

    def __iter__(self) -> Iterator[tuple[list[int], float]]:
        return iter(self.parts(self.epoch)[self.start :])

    def __len__(self) -> int:
        return len(self.batches(self.epoch))
